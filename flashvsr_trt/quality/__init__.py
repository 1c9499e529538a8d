"""How close one video is to another: PSNR and SSIM frame by frame, and a page that shows both."""
