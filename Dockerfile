# flashvsr-trt on CUDA's runtime, for GPUs with driver 580 or newer. Build: docker build -t flashvsr-trt .
# Run: docker run --rm --gpus all -v flashvsr-cache:/home/flashvsr/.cache -v "$PWD:/work" flashvsr-trt run input.mp4
FROM nvidia/cuda:13.0.2-runtime-ubuntu24.04

# A C compiler: Triton makes its launchers at the first run.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

# Ubuntu's own user has the number 1000.
RUN userdel --remove ubuntu \
    && useradd --create-home --uid 1000 flashvsr \
    && mkdir /work /home/flashvsr/.cache \
    && chown flashvsr:flashvsr /work /home/flashvsr/.cache

ENV PATH=/opt/flashvsr/bin:$PATH \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video \
    PYTHONUNBUFFERED=1

# EXTRAS="kernels,rtx" adds builders of engines.
ARG EXTRAS=kernels
COPY . /src
RUN python3 -m venv /opt/flashvsr \
    && pip install --no-cache-dir "/src[${EXTRAS}]"

USER 1000:1000
WORKDIR /work
VOLUME /home/flashvsr/.cache

# Healthy where the command starts and torch sees a GPU; `doctor` looks at nothing outside the container.
HEALTHCHECK --interval=5m --timeout=60s --start-period=30s \
    CMD ["sh", "-c", "flashvsr-trt doctor --json | python3 -c 'import json, sys; sys.exit(not any(part[\"name\"] == \"gpu\" and part[\"present\"] for part in json.load(sys.stdin)))'"]

ENTRYPOINT ["flashvsr-trt"]
CMD ["--help"]
