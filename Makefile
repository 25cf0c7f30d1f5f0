# Lodge: build, test and install. `make help` lists the targets.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
PREFIX   ?= /usr/local
DESTDIR  ?=
TEST     ?= ./...
FUZZTIME ?= 20s
TOOLS    := $(CURDIR)/build/tools

# A Go that scripts/toolchain had to fetch goes before the machine's own.
export PATH := $(CURDIR)/build/go/bin:$(TOOLS):$(PATH)
export GOTOOLCHAIN ?= local
export CGO_ENABLED ?= 0

LDFLAGS := -s -w -X github.com/lodgevirt/lodge/host/internal/version.Version=$(VERSION)
GOBUILD := go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)'
# Folders below plugins/; the last part of each is the plugin's name.
PLUGINS := qemu test esx storage/local storage/logical storage/disk storage/sheepdog lock/sanlock lock/etcd
# Those that use C libraries where scripts/tags finds them, and tell by their capabilities what is missing where it does not.
CGO_PLUGINS := storage/rbd storage/iscsi

# Versions of the tools that generate and check code. `go install` builds them into build/tools.
BUF             := github.com/bufbuild/buf/cmd/buf@v1.75.0
PROTOC_GEN_GO   := google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
PROTOC_GEN_GRPC := google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2
STATICCHECK     := honnef.co/go/tools/cmd/staticcheck@v0.8.2
ERRORLINT       := github.com/polyfloyd/go-errorlint@v1.8.0
NOCTX           := github.com/sonatard/noctx/cmd/noctx@v0.5.1
EXHAUSTIVE      := github.com/nishanths/exhaustive/cmd/exhaustive@v0.17.1
GOFUMPT         := mvdan.cc/gofumpt@v0.12.0

##@ Everyday

.PHONY: help
help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "} \
	  /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' Makefile
	@printf '\nVariables: TEST (packages), BENCH_QUICK=1, FUZZTIME, PREFIX, DESTDIR\n'

.PHONY: build
build: toolchain ## Build the daemons, the command and the plugins into bin/
	@mkdir -p bin/plugins
	@$(GOBUILD) -o bin/lodged ./host/cmd/lodged
	@$(GOBUILD) -o bin/lodge-lockd ./host/cmd/lodge-lockd
	@$(GOBUILD) -o bin/lodge ./host/cmd/lodge
	@plugin() { \
	  n=$${1##*/}; \
	  $(GOBUILD) $$tags -o bin/plugins/lodge-plugin-$$n ./plugins/$$1; \
	  install -m 0644 plugins/$$1/$$n.toml bin/plugins/$$n.toml; \
	}; \
	tags=; for p in $(PLUGINS); do plugin $$p; done; \
	tags=$$(scripts/tags); [ -z "$$tags" ] || export CGO_ENABLED=1; \
	tags="-tags=$$tags"; for p in $(CGO_PLUGINS); do plugin $$p; done
	@echo "built bin/ ($(VERSION))"

.PHONY: demo
demo: deps-demo build ## Boot a Linux guest with virsh, kill every daemon, and watch the guest, its lock and the list
	@go run ./examples/demo $(DEMO_FLAGS)

.PHONY: test
test: deps build bin/vimsim ## Run every test
ifeq ($(TEST),./...)
	@scripts/test $(CGO_PLUGINS:%=./plugins/%/...)
else
	LODGE_BIN=$(CURDIR)/bin go test -timeout 20m $(TEST)
endif

.PHONY: test-short
test-short: toolchain ## Run the tests that start no guest and no daemon
	go test -short -timeout 10m $(TEST)

.PHONY: race
race: deps build bin/vimsim ## Run every test with the race detector (needs gcc)
	LODGE_BIN=$(CURDIR)/bin CGO_ENABLED=1 go test -race -timeout 40m $(TEST)

.PHONY: bench
bench: deps build bin/vimsim ## Measure lodged, and libvirtd where it is installed, side by side (BENCH_QUICK=1: 2 minutes)
	@go run ./tests/bench -bin bin -out build/bench.md $(if $(BENCH_QUICK),-quick) $(BENCH_FLAGS)

.PHONY: bin/vimsim
bin/vimsim: toolchain
	@$(GOBUILD) -o $@ ./plugins/esx/vimsim

.PHONY: conformance
conformance: deps build ## Run the driver conformance suite against every driver
	go test -timeout 20m -count=1 -run 'Conformance' ./plugins/...
	@tags=$$(scripts/tags); [ -z "$$tags" ] || CGO_ENABLED=1 go test -timeout 20m -count=1 -run 'Conformance' -tags "$$tags" $(CGO_PLUGINS:%=./plugins/%/...)

.PHONY: fuzz
fuzz: toolchain ## Run every fuzz target for FUZZTIME
	@scripts/fuzz $(FUZZTIME)

##@ Code

.PHONY: lint
lint: toolchain tools-lint ## Check format, vet, staticcheck, error wrapping, contexts, switches and the walls between folders
	@scripts/lint

.PHONY: generate
generate: toolchain tools-generate ## Generate the Go code of the contract from sdk/proto
	cd sdk/proto && buf lint && buf generate

.PHONY: generate-check
generate-check: generate ## Check that the committed code is what the contract generates
	@git diff --exit-code -- sdk/proto || { echo 'generated code differs: commit the result of make generate' >&2; exit 1; }

.PHONY: tools-generate
tools-generate: toolchain
	@scripts/tool $(TOOLS) $(BUF) $(PROTOC_GEN_GO) $(PROTOC_GEN_GRPC)

.PHONY: tools-lint
tools-lint: toolchain
	@scripts/tool $(TOOLS) $(STATICCHECK) $(ERRORLINT) $(NOCTX) $(EXHAUSTIVE) $(GOFUMPT)

##@ Machine

.PHONY: deps
deps: toolchain ## Install what tests and demo need (QEMU, virsh, a guest kernel, busybox); does nothing the second time
	@scripts/deps

.PHONY: deps-demo
deps-demo: toolchain
	@scripts/deps --demo

.PHONY: toolchain
toolchain:
	@scripts/toolchain

.PHONY: install
install: build ## Install under PREFIX (and DESTDIR), with systemd units and an init script
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' scripts/install

.PHONY: uninstall
uninstall: ## Remove what install has put there; state and configuration stay
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' scripts/install --remove

.PHONY: clean
clean: ## Remove bin/ and build/
	rm -rf bin
	[ ! -d build ] || chmod -R u+w build
	rm -rf build
