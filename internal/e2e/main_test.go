// SPDX-License-Identifier: Apache-2.0

//go:build !windows

// Package e2e tests the program as its users run it: a real process on real
// ports, killed with real signals, spoken to by real clients. All of it runs
// with STRANDLINE_TESTS=all; without, only what is quick, see quickTests.
//
// A test begins with newWorld, which has a state directory and an archive, and
// starts servers on it. Whatever a server printed is shown when its test
// fails. Random moments come from a seed, which is logged and can be given
// back in STRANDLINE_SEED.
package e2e

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/strandline-project/strandline/internal/testkit"
)

// program is the strandline that all tests run, built by TestMain.
var program string

func TestMain(m *testing.M) {
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "strandline-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "make a directory for the program:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "strandline")
	if out, err := exec.Command("go", "build", "-o", program, "../../cmd/strandline").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the program: %v\n%s", err, out)
		return 1
	}
	if err := inParallel(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// inParallel lets more tests run at once than there are cores, unless -parallel
// says how many: most of the time they wait.
func inParallel() error {
	flag.Parse()
	told := false
	flag.Visit(func(f *flag.Flag) { told = told || f.Name == "test.parallel" })
	if told {
		return nil
	}
	return flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0)))
}

// quickTests run in every go test: they need nothing but Go, and take a minute
// of a core together.
var quickTests = []string{
	"TestADamagedFrameThatWasDurableIsRefusedAndNamed",
	"TestADamagedRowIsFound",
	"TestADiskThatWasRolledBackIsFoundAndIssuesNoSeqTwice",
	"TestALostServerIsRecoveredFromACheckpointAndWhatCameAfter",
	"TestAnArchiveAsOfATime",
	"TestAnArchiveThatIsNotOursIsRefusedAndNotTouched",
	"TestAPrefixIsToldFromADivergence",
	"TestAppendOnlyRefusesDeletesButThoseOfLocks",
	"TestAQuotaIsAnsweredWith507WhateverTheBodysForm",
	"TestARecoveryGoesOnAsItWasBegun",
	"TestAServerThatSleptThroughATakeOverIsFenced",
	"TestAStateDirectoryInUseNamesThePid",
	"TestATornTailIsCutAndLosesNothingAcknowledged",
	"TestBackupsSurviveKillsAndTheLossOfTheMachine",
	"TestBeforeAForkWithoutTheArchive",
	"TestBodiesThatAreTooLargeAreRefused",
	"TestEachEventOfAnEpochIsPublishedTheFirstOneToo",
	"TestHoldServesReadsAndWritesNothing",
	"TestInitAtTheArchiveOfAnotherLogTouchesNothing",
	"TestReadsOfDamagedBytesAre500AndNeverWrong",
	"TestStartsThatAreKilledOverAndOverLoseNothing",
	"TestTheAdminListenerTellsHealthAndMetrics",
	"TestTheServerSaysWhereItListensAsRestServerDoes",
	"TestTLSServesBothVersionsOfHTTPAndNoPlainOne",
	"TestUsersReachTheirOwnPathsOnly",
	"TestViewsThatAreGoneOrDamagedAreProjectedAnew",
	"TestWithAckArchivedEverythingAcknowledgedSurvivesTheLossOfTheMachine",
	"TestWithoutItsBucketAStartServesReadsUntilItIsBack",
}

// unlessQuick ends a test that is not one of them, unless all are to run.
func unlessQuick(t *testing.T) {
	t.Helper()
	name, _, _ := strings.Cut(t.Name(), "/")
	if !testkit.All() && !slices.Contains(quickTests, name) {
		t.Skip("drives real processes for some seconds; all tests are run by:", testkit.Command)
	}
}

func TestTheQuickTestsAreThere(t *testing.T) {
	files, err := filepath.Glob("*_test.go")
	must(t, err)
	var all strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		must(t, err)
		all.Write(text)
	}
	for _, name := range quickTests {
		if !strings.Contains(all.String(), "func "+name+"(t *testing.T)") {
			t.Errorf("there is no %s", name)
		}
	}
}

// newRandom returns random numbers that can be had again.
func newRandom(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("STRANDLINE_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("STRANDLINE_SEED=%s: %v", text, err)
		}
	}
	t.Logf("STRANDLINE_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
