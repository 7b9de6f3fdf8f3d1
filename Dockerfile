# The binary alone; ClickHouse is a server of its own (see docker-compose.yml).
FROM rust:1.95-trixie AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked && cp target/release/flexflow /flexflow

FROM debian:trixie-slim
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --create-home --home-dir /data flexflow
COPY --from=build /flexflow /usr/local/bin/flexflow
# By number, so that an orchestrator can tell that it is not root.
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 8080
# SIGTERM drains: capture first, pools last.
STOPSIGNAL SIGTERM
ENTRYPOINT ["flexflow", "--data-dir", "/data"]
CMD ["serve", "--listen", "0.0.0.0:8080"]
