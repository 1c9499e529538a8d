"""Video files in and out: packets, frames, pictures, sound, times, damage."""
