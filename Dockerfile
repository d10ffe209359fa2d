# The service with everything that several nodes need. Nothing but the binary, glibc and certificates is
# in the image: no shell, no package manager, no root.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
# Names of functions stay for backtraces; lines would double the size.
ENV CARGO_PROFILE_RELEASE_STRIP=debuginfo
# What Cargo fetches and builds is kept between builds of the image, not in it.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --features cluster --bin tollgate && \
    install -D target/release/tollgate /out/usr/local/bin/tollgate && \
    install -d /out/data

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /out/usr /usr
# A new volume takes its owner from here.
COPY --from=build --chown=65532:65532 /out/data /data
USER 65532:65532
WORKDIR /data
ENV ROCKET_ADDRESS=0.0.0.0 \
    TOLLGATE_DATA_DIR=/data
VOLUME /data
EXPOSE 8000
# Once a node is full or shuts down it is not healthy either: `ready` asks /ready. With another ROCKET_PORT,
# TOLLGATE_SERVER says where that is.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --start-interval=1s --retries=3 \
    CMD ["/usr/local/bin/tollgate", "ready", "--retry-for", "0s"]
# It stops by itself within ten seconds of SIGTERM.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/tollgate"]
CMD ["serve"]
