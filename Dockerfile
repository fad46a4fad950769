# docker build -t crack_plugin .                          for the CPU
# docker build --build-arg DEVICE=cu130 -t crack_plugin . for NVIDIA GPUs (docker run --gpus all; PyTorch brings CUDA)
# docker run --rm -v "$PWD:/work" crack_plugin predict photos --config sam3_tiny_lora_crack.py --out results
FROM debian:bookworm-slim

# A folder of PyTorch's package index: cpu, cu126, cu130, ...
ARG DEVICE=cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

# libgl1 and libglib2.0-0 are what opencv-python asks of the system
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libgl1 libglib2.0-0 python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

RUN python3 -m venv /opt/crack
COPY . /opt/source
RUN /opt/crack/bin/pip install -c /opt/source/constraints.txt setuptools wheel \
    && /opt/crack/bin/pip install -c /opt/source/constraints.txt --no-build-isolation \
        --extra-index-url "https://download.pytorch.org/whl/$DEVICE" '/opt/source[lite,geo,export]'

# With `docker run --user "$(id -u):$(id -g)"` anybody may be at home here.
RUN useradd --create-home --uid 1000 crack \
    && chmod 1777 /home/crack \
    && mkdir /work \
    && chown crack /work
ENV PATH=/opt/crack/bin:/usr/local/bin:/usr/bin:/bin HOME=/home/crack USER=crack
USER crack
WORKDIR /work
ENTRYPOINT ["python", "-m", "crack_plugin"]
CMD ["demo"]
