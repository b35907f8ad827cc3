# SPDX-License-Identifier: Apache-2.0

# Each recipe is one line that you can as well type; `just --list` shows them.

# format every Go file
fmt:
    gofmt -l -w $(git ls-files '*.go')

# vet, and the linter pinned in tools/lint
lint:
    go vet ./... && go build -C tools/lint -o ../../.bin/ github.com/golangci/golangci-lint/v2/cmd/golangci-lint && .bin/golangci-lint run ./...

# every test at its full length, with real servers and clients; `go test ./...` is the quick part
test:
    go run ./internal/testkit/servers && STRANDLINE_TESTS=all go test -timeout 40m ./...

# the core packages under the race detector
race:
    go test -race -short -timeout 40m ./eventlog/... ./archiver/... ./projector/... ./internal/...

# every fuzz test for a while each: just fuzz 5m
fuzz time="20s":
    grep -rEo --include='*_test.go' '^func Fuzz\w+' . | sed -E 's|/[^/]*:func | |' | while read -r dir name; do go test -run '^$' -fuzz "^$name\$" -fuzztime {{time}} "$dir" || exit 1; done

# bugs put into the core, one at a time, and whether the tests find them: just mutants -run janitor
mutants *args:
    go run ./internal/testkit/mutants {{args}}

# power cuts, kills and failing disks
crash:
    STRANDLINE_TESTS=all go test -count=1 -timeout 40m -run 'Crash|Kill|Power|Torn|Strace|Poison|Damage' ./...

# the program as its users run it: real restic, MinIO, versitygw
e2e:
    go run ./internal/testkit/servers && STRANDLINE_TESTS=all go test -count=1 -v -timeout 40m ./cmd/... ./internal/e2e/...

# the server, and one on MinIO, next to rclone serve restic and plain files, and a recovery: just bench --only 'put 1KiB'
bench *args:
    go run ./internal/testkit/servers && go run ./cmd/strandline bench serve --minio "$(go run ./internal/testkit/servers path minio)" {{args}} && go run ./cmd/strandline bench recover

# whole backups and restores with restic, next to rclone serve restic and restic straight to MinIO: just bench-restic --rounds 4
bench-restic *args:
    go run ./internal/testkit/servers && go run ./cmd/strandline bench restic --minio "$(go run ./internal/testkit/servers path minio)" {{args}}

# a recovery of ten million events from MinIO, with its goals: just bench-recovery --large 100000000
bench-recovery *args:
    go run ./internal/testkit/servers && go run ./cmd/strandline bench recover --events 10000000 --machines 50 --minio "$(go run ./internal/testkit/servers path minio)" {{args}}

# a server that holds many blocks, and cold reads from MinIO: just bench-scale --events 122000000 --machines 50
bench-scale *args:
    go run ./internal/testkit/servers && go run ./cmd/strandline bench scale --minio "$(go run ./internal/testkit/servers path minio)" {{args}}

# write the golden files anew; review the diff
golden:
    go test $(grep -rl --include='*_test.go' 'flag.Bool("update"' . | xargs -n 1 dirname | sort -u) -args -update

# back up, lose the machine, recover, compare
demo *args:
    go run ./cmd/strandline demo {{args}}
