# The control plane and the operators' CLI. Build from the repository's root:
#   docker build -f deploy/docker/controlplane.Dockerfile -t ouvira/controlplane .

FROM golang:1.26-bookworm AS build
# The modules stand alone (replace directives), so the workspace is not needed.
ENV CGO_ENABLED=0 GOWORK=off GOFLAGS=-buildvcs=false
WORKDIR /src/controlplane
COPY shared/go.mod shared/go.sum ../shared/
COPY migrations/go.mod migrations/go.sum ../migrations/
COPY controlplane/go.mod controlplane/go.sum ./
RUN go mod download
COPY shared ../shared
COPY migrations ../migrations
COPY controlplane ./
RUN go build -trimpath -ldflags='-s -w' -o /out/usr/local/bin/ ./cmd/controlplane ./cmd/ouvira
# What a static binary still wants to find, and the folders that volumes are mounted on.
RUN mkdir -p /out/etc/ssl/certs /state/ouvira /state/ouvira-keys /state/ouvira-public \
 && cp /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/ \
 && printf 'ouvira:x:65532:65532:ouvira:/nonexistent:/sbin/nologin\n' > /out/etc/passwd \
 && printf 'ouvira:x:65532:\n' > /out/etc/group \
 && chmod 0700 /state/*

# No shell, no package manager, nothing to update but the binary.
FROM scratch
COPY --from=build /out /
# A named volume inherits the owner of the folder it is mounted on.
COPY --from=build --chown=65532:65532 /state /var/lib
EXPOSE 8080
USER 65532:65532
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 CMD ["/usr/local/bin/controlplane", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/controlplane"]
CMD ["serve"]
