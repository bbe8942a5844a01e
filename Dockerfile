# Built from a clone of this repository: `docker build -t headgate .`
ARG BUN_VERSION=1.4.5

FROM docker.io/oven/bun:${BUN_VERSION}-slim AS build
WORKDIR /src
COPY package.json bun.lock bunfig.toml ./
RUN bun install --frozen-lockfile --production --ignore-scripts
COPY tsconfig.json ./
COPY scripts/build.ts scripts/
COPY src src
ARG COMMIT=unknown
RUN HEADGATE_COMMIT=${COMMIT} bun scripts/build.ts --outdir /out

FROM docker.io/library/debian:bookworm-slim
# wget is what health checks use, here and in the compose files of others.
RUN apt-get update \
  && apt-get install -y --no-install-recommends ca-certificates wget \
  && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log \
  && groupadd --system --gid 10001 headgate \
  && useradd --system --uid 10001 --gid 10001 --home-dir /data --no-create-home --shell /usr/sbin/nologin headgate \
  && mkdir -p /data /app/logs \
  && chown 10001:10001 /data /app/logs
COPY --from=build --chmod=755 /out/headgate /usr/local/bin/headgate
ENV DATA_DIR=/data
WORKDIR /data
EXPOSE 3000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
  CMD wget -q -O /dev/null "http://localhost:${PORT:-3000}/readyz" || exit 1
# Starts as root only to own what is mounted at these two folders, then becomes this user.
ENTRYPOINT ["headgate", "--user", "10001:10001", "--log-dir", "/app/logs"]
