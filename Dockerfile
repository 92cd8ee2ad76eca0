# Builds the gateway and puts nothing but its binary into a small image without a shell.
FROM rust:1-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock config.toml build.rs ./
COPY proto proto
COPY src src
COPY migrations migrations
# The examples of the API's document are those of the error pages.
COPY docs/errors docs/errors
COPY benches benches
RUN cargo build --release --locked --bin sluicegate && mkdir /data

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/sluicegate /usr/local/bin/sluicegate
# Owned by the user that runs it, and so are the volumes that are mounted here for the first time.
COPY --from=build --chown=nonroot:nonroot /data /data
WORKDIR /data
EXPOSE 8080
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s CMD ["sluicegate", "ready"]
ENTRYPOINT ["sluicegate"]
CMD ["serve", "--listen", "0.0.0.0:8080"]
