"""Alpha in VP8 and VP9: a second picture in each packet, which libvpx reads and FFmpeg's decoders skip."""

import av

LIBVPX = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


def with_alpha(stream: av.VideoStream, threads: int) -> av.VideoStream | av.VideoCodecContext:
    """What decodes the stream: a decoder that gives its alpha where it says that it has any."""
    says_alpha = any(key.lower() == "alpha_mode" and value == "1" for key, value in stream.metadata.items())
    name = LIBVPX.get(stream.codec_context.name)
    if not says_alpha or name is None:
        return stream
    decoder = av.CodecContext.create(name, "r")
    decoder.thread_count = threads
    if stream.codec_context.extradata:
        decoder.extradata = stream.codec_context.extradata
    return decoder
