// SPDX-License-Identifier: Apache-2.0

package testkit

import (
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestServersArePinnedByTheirModules(t *testing.T) {
	for _, server := range Servers() {
		version, err := server.version()
		if err != nil || !strings.HasPrefix(version, "v") {
			t.Errorf("%s: version %q, %v", server.Name, version, err)
		}
		path, err := server.Path()
		if err != nil || filepath.Base(path) != server.Name+"-"+version {
			t.Errorf("%s: path %q, %v", server.Name, path, err)
		}
	}
}

func TestAModuleThatPinsNothingIsAnError(t *testing.T) {
	if version, err := (Server{Name: "minio", Module: "example.com/other"}).version(); err == nil {
		t.Errorf("found version %q of a module that is not required", version)
	}
	if version, err := (Server{Name: "absent", Module: "example.com/other"}).version(); err == nil {
		t.Errorf("found version %q in a folder that is not there", version)
	}
}

func TestWithoutTheSwitchATestThatNeedsAProgramSkipsAndNamesTheCommand(t *testing.T) {
	t.Setenv("STRANDLINE_TESTS", "")
	skipped := true
	t.Run("skips", func(t *testing.T) {
		Need(t, "sh")
		skipped = false
	})
	if !skipped {
		t.Error("the test went on")
	}
}

func TestWithTheSwitchAProgramIsFound(t *testing.T) {
	t.Setenv("STRANDLINE_TESTS", "all")
	if path := Need(t, "sh"); !filepath.IsAbs(path) {
		t.Errorf("sh is at %q", path)
	}
}

func TestAStoppedServerKeepsItsDataAndItsPort(t *testing.T) {
	for name, open := range map[string]func(testing.TB) *S3{"MinIO": MinIO, "versitygw": VersityGW} {
		t.Run(name, func(t *testing.T) {
			server := open(t)
			bucket := server.NewBucket()
			if server.NewBucket() == bucket {
				t.Errorf("two buckets are both named %s", bucket)
			}
			server.Stop()
			server.Stop()
			if server.answers(t.Context()) {
				t.Error("a stopped server answers")
			}
			endpoint := server.Endpoint
			server.Start()
			if server.Endpoint != endpoint || !server.answers(t.Context()) {
				t.Errorf("after the restart %s does not answer", server.Endpoint)
			}
			if _, err := os.Stat(filepath.Join(server.data(), bucket)); err != nil {
				t.Error(err)
			}
			response, err := http.Get(server.Endpoint + "/" + bucket + "/?list-type=2")
			if err != nil {
				t.Fatal(err)
			}
			defer http.DefaultClient.CloseIdleConnections()
			defer response.Body.Close()
			if response.StatusCode != http.StatusForbidden {
				t.Errorf("a list without a key is answered with %s", response.Status)
			}
		})
	}
}

// Whatever is long runs in a share of .ci/rotate.
func TestEveryPackageWithLongTestsRotates(t *testing.T) {
	root, err := repositoryRoot()
	if err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile(filepath.Join(root, ".ci", "rotate"))
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	err = filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(text), "testkit"+".Long(") && !strings.Contains(string(text), "testkit"+".NeedLong(") {
			return err
		}
		seen++
		folder, err := filepath.Rel(root, filepath.Dir(path))
		if top, _, _ := strings.Cut(folder, "/"); !rotates(string(script), folder) && !rotates(string(script), top+"/...") {
			t.Errorf("%s has tests that are long, and .ci/rotate does not run ./%s", path, folder)
		}
		return err
	})
	if err != nil || seen < 5 {
		t.Errorf("%d files with long tests: %v", seen, err)
	}
}

// rotates reports whether a share of script tests the packages.
func rotates(script, packages string) bool {
	return regexp.MustCompile(`(?m)^\t"full .*\./` + regexp.QuoteMeta(packages) + `[ "]`).MatchString(script)
}
