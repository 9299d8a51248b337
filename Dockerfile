# neoxrun with CUDA.
#
#   docker build -t neoxrun .
#   docker run --rm --gpus all --ipc=host --user "$(id -u):$(id -g)" -v "$PWD:/models" neoxrun generate 20B -i prompt.txt
#
# Checkpoints, prompts and outputs are in the folder mounted at /models, the working directory. With --user the outputs
# can be written there, and are yours. --ipc=host gives NCCL the shared memory that it needs between GPUs.

# The small image is enough: torch's wheels bring cuBLAS, cuDNN and NCCL, in the versions that they were built with.
FROM nvidia/cuda:13.0.3-base-ubuntu24.04

RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

# Ubuntu does not let pip install into the system's own Python.
RUN python3 -m venv /opt/neoxrun
ENV PATH=/opt/neoxrun/bin:$PATH \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

# The packages come before the sources: a change to neoxrun then builds again in seconds.
WORKDIR /src
COPY constraints.txt ./
RUN pip install --constraint constraints.txt torch lm-eval deepspeed megatron-core
COPY . ./
RUN pip install --constraint constraints.txt ".[finetune]" \
    && neoxrun --version

# The command does not run as root. The home folder holds caches, and is writable under any --user.
RUN useradd --uid 10001 --create-home neoxrun \
    && chmod 1777 /home/neoxrun \
    && install --directory --owner=neoxrun --mode=1777 /models
ENV HOME=/home/neoxrun USER=neoxrun
USER neoxrun
VOLUME /models
WORKDIR /models

ENTRYPOINT ["neoxrun"]
CMD ["--help"]
