// SPDX-License-Identifier: Apache-2.0

// Package archtest holds no code: its test keeps the arrows between packages
// as docs/ARCHITECTURE.md draws them, and the marks that every file carries.
// depguard in .golangci.yml says the same of the engines, earlier and in the
// editor; this test needs nothing but Go.
package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/strandline-project/strandline"

// pkg is what `go list` tells of one package of ours.
type pkg struct {
	ImportPath, Doc                    string
	GoFiles                            []string
	Imports, TestImports, XTestImports []string
}

// engines are the outside packages that exactly one of ours may import, tests
// included; everything else goes through that package.
var engines = map[string][]string{
	"github.com/minio/minio-go":      {"archiver/s3"},
	"github.com/cockroachdb/pebble":  {"projector/kv"},
	"github.com/nats-io/nats.go":     {"internal/feed"},
	"github.com/nats-io/nats-server": {"internal/feed"},
	"github.com/tidwall/wal":         {"eventlog"},
	"github.com/spf13/cobra":         {"cmd/strandline"},
	"github.com/spf13/pflag":         {"cmd/strandline"},
	"github.com/prometheus":          {"internal/metrics"},
	"github.com/vbauerster/mpb":      {"internal/progress"},
}

// crashFS is the exception: the crash tests of the views cut the power of the
// file system that Pebble brings along.
const crashFS = "github.com/cockroachdb/pebble/v2/vfs"

// requestSigner is another one: the proxy that spoils what passes between a
// server and its store changes requests, and signs them anew.
const requestSigner = "github.com/minio/minio-go/v7/pkg/signer"

// arrows say what a package and those below it may import of ours. What is
// not listed here is checked by the other tests only.
var arrows = map[string][]string{
	"eventlog":             {"eventlog", "internal/durable"},
	"archiver":             {"archiver", "eventlog", "internal/durable", "internal/memory", "internal/progress"},
	"projector":            {"projector", "eventlog", "internal/durable", "internal/memory", "internal/progress"},
	"internal/durable":     {},
	"internal/feed":        {"internal/feed", "eventlog"},
	"internal/memory":      {},
	"internal/metrics":     {"internal/metrics", "eventlog", "archiver", "projector", "internal/feed", "internal/blockstore"},
	"internal/progress":    {"internal/progress"},
	"internal/blockstore":  {"internal/blockstore", "eventlog", "archiver", "projector", "internal/durable"},
	"internal/resticapi":   {"internal/resticapi", "internal/blockstore", "eventlog"},
	"internal/httpapi":     {"internal/httpapi", "internal/blockstore", "eventlog", "internal/progress"},
	"internal/plainclient": {},
	"internal/bench":       {"archiver", "eventlog", "projector", "internal/durable"},
	"internal/checkpoint":  {"internal/checkpoint", "internal/recovery", "eventlog", "archiver", "projector", "internal/durable", "internal/progress"},
	"internal/drill":       {"internal/drill", "eventlog", "archiver", "projector", "internal/recovery", "internal/progress"},
	"internal/recovery":    {"internal/recovery", "eventlog", "archiver", "projector", "internal/durable", "internal/progress"},
}

func TestEachEngineHasOneImporter(t *testing.T) {
	for _, p := range packages(t) {
		for _, imported := range p.all() {
			for engine, owners := range engines {
				if imported == crashFS && under(p.rel(), "projector") && !slices.Contains(p.Imports, crashFS) {
					continue
				}
				if imported == requestSigner && p.rel() == "internal/testkit" {
					continue
				}
				if under(imported, engine) && !slices.Contains(owners, p.rel()) {
					t.Errorf("%s imports %s, which only %s may: declare the interface you need", p.rel(), imported, strings.Join(owners, " and "))
				}
			}
		}
	}
}

func TestArrowsPointTheRightWay(t *testing.T) {
	for _, p := range packages(t) {
		rule, allowed := ruleFor(p.rel())
		if rule == "" {
			continue
		}
		for _, imported := range p.Imports {
			target, ours := strings.CutPrefix(imported, module+"/")
			if ours && !slices.ContainsFunc(allowed, func(a string) bool { return under(target, a) }) {
				t.Errorf("%s imports %s, which %s must not: declare a small interface, and let cmd/strandline hand it in", p.rel(), target, rule)
			}
		}
	}
}

func TestNothingDependsOnTheOtherSide(t *testing.T) {
	for from, to := range map[string]string{"archiver": "projector", "projector": "archiver"} {
		for _, p := range packages(t) {
			if !under(p.rel(), from) {
				continue
			}
			for _, imported := range p.Imports {
				if under(imported, module+"/"+to) {
					t.Errorf("%s imports %s: both may know the event log, not each other", p.rel(), imported)
				}
			}
		}
	}
}

// testOnly packages serve tests; the program must not contain them.
var testOnly = []string{"internal/testkit", "internal/archtest", "archiver/buckettest", "projector/modeltest"}

func TestTheProductDoesNotContainTestCode(t *testing.T) {
	for _, p := range packages(t) {
		if slices.ContainsFunc(testOnly, func(o string) bool { return under(p.rel(), o) }) {
			continue
		}
		for _, imported := range p.Imports {
			for _, o := range append(prefixed(testOnly), "testing", "pgregory.net/rapid", "go.uber.org/goleak") {
				if under(imported, o) {
					t.Errorf("%s imports %s, which is for tests", p.rel(), imported)
				}
			}
		}
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) > 0 && p.Doc == "" {
			t.Errorf("%s has no package comment", p.rel())
		}
	}
}

const header = "// SPDX-License-Identifier: Apache-2.0\n\n"

func TestEveryFileNamesItsLicence(t *testing.T) {
	eachGoFile(t, func(path string, text []byte) {
		if !bytes.HasPrefix(text, []byte(header)) {
			t.Errorf("%s does not begin with %q and an empty line", path, strings.TrimSpace(header))
		}
	})
}

// TestWindowsIsRefusedByOneFile holds cmd/strandline to its build tags: on
// Windows the program is main_windows.go and nothing else.
func TestWindowsIsRefusedByOneFile(t *testing.T) {
	eachGoFile(t, func(path string, text []byte) {
		if !strings.HasPrefix(path, "cmd/strandline/") || strings.HasSuffix(path, "_windows.go") {
			return
		}
		others := bytes.HasPrefix(text, []byte(header+"//go:build !windows && ")) // of the systems that are not Windows, some
		if !others && !bytes.HasPrefix(text, []byte(header+"//go:build !windows\n")) && !bytes.HasPrefix(text, []byte(header+"//go:build linux\n")) {
			t.Errorf("%s lacks the line //go:build !windows after the licence", path)
		}
	})
}

func TestNoFileIsTooLong(t *testing.T) {
	const most = 500
	eachGoFile(t, func(path string, text []byte) {
		if n := bytes.Count(text, []byte("\n")); n > most && !strings.HasSuffix(path, "_test.go") {
			t.Errorf("%s has %d lines, more than %d: tell its story in two files", path, n, most)
		}
	})
}

func TestEveryFileParses(t *testing.T) {
	eachGoFile(t, func(path string, text []byte) {
		if _, err := parser.ParseFile(token.NewFileSet(), path, text, parser.PackageClauseOnly); err != nil {
			t.Error(err)
		}
	})
}

// ruleFor returns the arrows' entry that covers a package, the longest one.
func ruleFor(rel string) (rule string, allowed []string) {
	for r, a := range arrows {
		if under(rel, r) && len(r) > len(rule) {
			rule, allowed = r, a
		}
	}
	return rule, allowed
}

// under reports whether path is dir or below it; a version element counts as
// below ("…/pebble/v2").
func under(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

func prefixed(rels []string) []string {
	var all []string
	for _, r := range rels {
		all = append(all, module+"/"+r)
	}
	return all
}

func (p *pkg) rel() string {
	return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
}

// all are the imports of the package and of its tests.
func (p *pkg) all() []string {
	return slices.Concat(p.Imports, p.TestImports, p.XTestImports)
}

// packages asks the go command, once for each test: it takes a moment only.
func packages(t *testing.T) []*pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Doc,GoFiles,Imports,TestImports,XTestImports", "./...")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []*pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		p := &pkg{}
		if err := dec.Decode(p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		all = append(all, p)
	}
	if len(all) < 5 {
		t.Fatalf("go list found %d packages only", len(all))
	}
	return all
}

// root is the folder of go.mod.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// eachGoFile calls look with every Go file of the repository and its path in
// it.
func eachGoFile(t *testing.T, look func(path string, text []byte)) {
	t.Helper()
	dir := root(t)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata") && path != dir {
			return filepath.SkipDir
		}
		if d.IsDir() || filepath.Ext(path) != ".go" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		look(filepath.ToSlash(rel), text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
