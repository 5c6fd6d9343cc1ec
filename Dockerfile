# firedrill's image: one static program, nobody's user, nothing else. What observers, node helpers and the watchdog run from, and what
# runs `firedrill` itself in a cluster; pods that need more privileges say so themselves.
#
#   RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --locked --target x86_64-unknown-linux-gnu
#   buildah build --build-arg PROGRAM=target/x86_64-unknown-linux-gnu/release/firedrill --tag firedrill .
#
# The testbed makes its image of this file, too (tests/testbed/images/firedrill.image).
FROM scratch
ARG PROGRAM=firedrill
COPY ${PROGRAM} /firedrill
USER 65532:65532
ENTRYPOINT ["/firedrill"]
