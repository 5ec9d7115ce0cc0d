# Ouvira. `make help` lists what there is to do.

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:

GO      ?= go
BIN     := $(CURDIR)/bin
TOOLBIN := $(CURDIR)/.cache/bin
MODULES := shared migrations controlplane dataplane deploy

# Flags of the caller's shell (-mod=mod, -tags …) would change what is proven.
# -buildvcs=false lets a tree that git does not trust (a container's mount) build.
export GOFLAGS := -buildvcs=false
unexport GOWORK

# What the generators write, and `make check` compares.
queries    = $(addprefix $(1)/,$(shell sed -nE 's/.*[ {]out: *([^ ,}]+).*/\1/p' $(1)/sqlc.yaml))
GENERATED  = $(foreach p,controlplane dataplane,$(call queries,$(p)) $(p)/openapi.yaml) docs/configuration.md docs/API.md docs/gateway.md

# The race detector needs a C compiler; the tests themselves do not.
RACE := $(if $(shell command -v $${CC:-cc} 2>/dev/null),-race)
# Packages tested at once. Half of a test run waits for Postgres.
TEST_P ?= 2
TEST_TIMEOUT ?= 20m
# `make check` vets; to do it again for the race detector's build costs 25 s of CPU.
# Failpoints are compiled in, so that the tests that kill processes run; without
# one armed they do nothing. `make check` tests that a release has none.
TEST_FLAGS ?= -tags failpoints
# Which packages; `make test PKGS=./dataplane/internal/tenantpool` for one.
ALL_PKGS := $(shell $(GO) list -m -f '{{.Path}}/...')
PKGS ?= $(ALL_PKGS)
# Where the tests are that run on Postgres 18 too: what has none need not be linked.
ON18 = $(addprefix ./,$(sort $(dir $(shell grep -rlE '^func Test(Sec|Invariant)' --include='*_test.go' dataplane))))

##@ Run

.PHONY: run
run: build ## Start everything in the foreground: Postgres, both planes, a mail catcher; Ctrl-C stops it
	@exec $(BIN)/local

.PHONY: reset
reset: $(BIN)/local ## Forget the local stack's data
	@exec $(BIN)/local reset

.PHONY: start
start: $(BIN)/local ## Start one part of the running stack again: NAME=control|worker|data-0|data-1|pg-control|pg-a|pg-b
	@exec $(BIN)/local start "$${NAME:?Say which part: make start NAME=worker}"

.PHONY: stop
stop: $(BIN)/local ## Stop one part of the running stack: NAME as for start
	@exec $(BIN)/local stop "$${NAME:?Say which part: make stop NAME=worker}"

.PHONY: bench
bench: build ## Measure against fixed references, into docs/benchmarks.md; ONLY=name,… for some, QUICK=1 to see that it works
	@$(GO) run ./deploy/bench $(if $(ONLY),-only '$(ONLY)') $(if $(QUICK),-quick)

.PHONY: build
build: ## Build the binaries into bin/
	@mkdir -p $(BIN)
	@$(GO) build -trimpath -o $(BIN)/ ./controlplane/cmd/... ./dataplane/cmd/... ./deploy/local

.PHONY: $(BIN)/local
$(BIN)/local:
	@mkdir -p $(BIN)
	@$(GO) build -trimpath -o $@ ./deploy/local

##@ Prove

# Memory is cheaper than the time that collecting it takes.
test: export GOGC ?= 400
# How long a process waits at its end for races of what still runs: the tests wait for
# what they start, and a second for each of sixty packages is a minute.
test: export GORACE ?= atexit_sleep_ms=100
.PHONY: test
test: $(TOOLBIN)/gotestsum ## Run every test against a Postgres of its own: the system's version and 18
	@if [ -z "$(RACE)" ]; then echo "note: no C compiler found, so this run is without the race detector (apt-get install gcc libc6-dev)" >&2; fi
	@mkdir -p $(BIN) && $(GO) build -o $(BIN)/withpg ./shared/testdb/cmd/withpg
ifeq ($(PKGS),$(ALL_PKGS))
	@echo "isolation of tenants on Postgres 18"
	@$(BIN)/withpg -on18 -- $(TOOLBIN)/gotestsum --format pkgname --format-hide-empty-pkg -- \
		$(RACE) -vet=off -shuffle=on -p $(TEST_P) -timeout $(TEST_TIMEOUT) $(TEST_FLAGS) -short -run '^Test(Sec|Invariant)' $(ON18)
	@echo "everything on the system's Postgres"
endif
	@exec $(BIN)/withpg -18 -- \
		$(TOOLBIN)/gotestsum --format pkgname --format-hide-empty-pkg -- \
		$(RACE) -vet=off -shuffle=on -p $(TEST_P) -timeout $(TEST_TIMEOUT) $(TEST_FLAGS) $(PKGS)

# How long the soak takes; the other long forms have their own scale.
CHAOS ?= 30m

.PHONY: chaos
chaos: ## Run the long forms of the reliability tests (docs/reliability.md); hours, on a machine of its own
	@mkdir -p $(BIN) && $(GO) build -o $(BIN)/withpg ./shared/testdb/cmd/withpg
	@$(BIN)/withpg -- $(GO) test -count=1 -v -p 1 -timeout 8h $(TEST_FLAGS) \
		-run '^Test(Rel|Adversarial)' ./dataplane/internal/tenantpool ./deploy/e2e -chaos $(CHAOS)
	@exec $(BIN)/withpg -18 -- $(GO) test -count=1 -v -timeout 8h -run '^TestModel' ./dataplane/internal/routingtest -steps 20000

.PHONY: check
check: check-generate check-tidy check-standalone walls lint ## Everything else that must hold: generated files, lint, module borders

.PHONY: check-generate
check-generate: generate
	@changed=$$(git status --porcelain --untracked-files=all -- $(GENERATED)); \
	if [ -n "$$changed" ]; then \
		git --no-pager diff --stat -- $(GENERATED); \
		printf 'Generated files differ from what is committed:\n%s\nRun "make generate" and commit the result.\n' "$$changed" >&2; \
		exit 1; \
	fi

.PHONY: check-tidy
check-tidy:
	@for m in $(MODULES) tools; do \
		(cd $$m && GOWORK=off $(GO) mod tidy -diff) || { echo "$$m/go.mod is not tidy: run \"make tidy\" and commit the result." >&2; failed=1; }; \
	done; exit $${failed:-0}

# Each module must build without the workspace: that is how others will use it,
# and go.work hides a missing requirement.
.PHONY: check-standalone
check-standalone:
	@for m in $(MODULES) tools; do \
		echo "build and vet $$m alone"; \
		(cd $$m && GOWORK=off $(GO) build ./... && GOWORK=off $(GO) vet ./...) || failed=1; \
	done; \
	echo "vet the workspace with failpoints"; \
	$(GO) vet -tags failpoints $(PKGS) || failed=1; \
	echo "test that a release has no failpoints"; \
	$(GO) test ./shared/failpoint || failed=1; exit $${failed:-0}

.PHONY: walls
walls: ## Check who imports whom (CONTRIBUTING.md, "The walls")
	@cd tools && GOWORK=off $(GO) test -count=1 ./walls

.PHONY: lint
lint: $(TOOLBIN)/golangci-lint ## Lint each module
	@for m in $(MODULES); do \
		echo "lint $$m"; \
		(cd $$m && $(TOOLBIN)/golangci-lint run --config $(CURDIR)/.golangci.yaml ./...) || failed=1; \
	done; exit $${failed:-0}

.PHONY: vuln
vuln: $(TOOLBIN)/govulncheck ## Look the dependencies up in the Go vulnerability database (needs the network)
	@for m in $(MODULES); do \
		echo "vuln $$m"; rc=0; \
		(cd $$m && $(TOOLBIN)/govulncheck ./...) || rc=$$?; \
		case $$rc in \
			0) ;; \
			3) failed=1 ;; \
			*) echo "NOT RUN: the vulnerability database is out of reach, so nothing is known. Name a mirror in GOVULNDB, or try again with a network." >&2; exit 2 ;; \
		esac; \
	done; exit $${failed:-0}

##@ Write

.PHONY: generate
generate: $(TOOLBIN)/sqlc ## Regenerate queries (sqlc), the OpenAPI documents and the docs made of them
	@for p in controlplane dataplane; do (cd $$p && $(TOOLBIN)/sqlc generate); done
	@mkdir -p $(BIN) docs
	@$(GO) build -trimpath -o $(BIN)/ ./controlplane/cmd/controlplane ./dataplane/cmd/dataplane
	@tmp=$$(mktemp -d); trap 'rm -rf "$$tmp"' EXIT; \
	for p in controlplane dataplane; do \
		$(BIN)/$$p openapi > $$tmp/$$p.yaml; \
		$(BIN)/$$p config-table > $$tmp/$$p.md; \
	done; \
	{ \
		printf '# Configuration\n\nGenerated from the configuration structs by `make generate`; do not edit.\n'; \
		printf '\n## Control plane\n\n'; cat $$tmp/controlplane.md; \
		printf '\n## Data plane\n\n'; cat $$tmp/dataplane.md; \
	} > $$tmp/configuration.md; \
	for p in controlplane dataplane; do cp $$tmp/$$p.yaml $$p/openapi.yaml; done; \
	cp $$tmp/configuration.md docs/configuration.md; \
	$(BIN)/dataplane api-reference > docs/API.md; \
	$(BIN)/dataplane gateway-guide > docs/gateway.md

.PHONY: fmt
fmt: $(TOOLBIN)/golangci-lint ## Format (gofumpt, grouped imports)
	@for m in $(MODULES); do (cd $$m && $(TOOLBIN)/golangci-lint fmt --config $(CURDIR)/.golangci.yaml ./...); done

.PHONY: tidy
tidy: ## go mod tidy in every module
	@for m in $(MODULES) tools; do (cd $$m && GOWORK=off $(GO) mod tidy); done

##@ Tools

# Built once per change of tools/go.mod; sqlc without cgo parses with the same
# Postgres grammar (as WebAssembly) and builds in a quarter of the time.
tool = @mkdir -p $(TOOLBIN) && echo "building $(@F)" && cd tools && GOWORK=off CGO_ENABLED=0 $(GO) build -trimpath -o $@ $(1)

$(TOOLBIN)/sqlc: tools/go.mod tools/go.sum
	$(call tool,github.com/sqlc-dev/sqlc/cmd/sqlc)
$(TOOLBIN)/golangci-lint: tools/go.mod tools/go.sum
	$(call tool,github.com/golangci/golangci-lint/v2/cmd/golangci-lint)
$(TOOLBIN)/gotestsum: tools/go.mod tools/go.sum
	$(call tool,gotest.tools/gotestsum)
$(TOOLBIN)/govulncheck: tools/go.mod tools/go.sum
	$(call tool,golang.org/x/vuln/cmd/govulncheck)

.PHONY: tools
tools: $(TOOLBIN)/sqlc $(TOOLBIN)/golangci-lint $(TOOLBIN)/gotestsum ## Build the pinned tools into .cache/bin

.PHONY: help
help: ## This list
	@awk 'BEGIN {FS = ":.*## "} \
		/^##@ / {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
