# distiq for CPUs:  docker build -t distiq .
#                   docker run --rm -v "$PWD:/work" distiq run my.toml
FROM python:3.11-slim-bookworm

# A compiler for .pt2 and .c files; libgomp for the runtimes.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ libgomp1 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/distiq
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY distiq ./distiq

# torch goes first and from the index of CPU builds, so that no CUDA library comes along.
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu "torch==2.13.0" \
    && pip install --no-cache-dir -c constraints.txt ".[audio,hub,litert,openvino,search,text]"

RUN useradd --create-home --uid 1000 distiq && mkdir /work && chown distiq:distiq /work
USER 1000
ENV OMP_NUM_THREADS=1 MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /work
ENTRYPOINT ["distiq"]
CMD ["--help"]
