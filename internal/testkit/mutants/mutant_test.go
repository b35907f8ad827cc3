// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const root = "../../.."

// The quick half of `just mutants`: what the list names is there.
func TestEveryMutantHasItsPlaceAndItsTests(t *testing.T) {
	list := all()
	if len(list) < 40 {
		t.Errorf("%d mutants, want 40 at least", len(list))
	}
	if err := checkAll(root, list); err != nil {
		t.Error(err)
	}
}

func TestAMutantThatCannotBeIsRefused(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a.go": "package a\n\nfunc One() int { return 1 }\n", "a_test.go": "package a\n\nfunc TestOne(t *testing.T) {}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	good := mutant{name: "good", why: "it counts", file: "a.go", cut: "return 1", put: "return 2", tests: "TestOne"}
	if err := checkAll(dir, []mutant{good}); err != nil {
		t.Errorf("a good one: %v", err)
	}
	for name, change := range map[string]func(*mutant){
		"0 times":                func(m *mutant) { m.cut = "return 3" },
		"4 times":                func(m *mutant) { m.cut = "n" },
		"it changes nothing":     func(m *mutant) { m.put = m.cut },
		"it is no Go":            func(m *mutant) { m.put = "return (" },
		"no such file":           func(m *mutant) { m.file = "b.go" },
		"has no TestTwo":         func(m *mutant) { m.tests = "TestTwo" },
		"names no test":          func(m *mutant) { m.tests = "" },
		"there are two of that":  nil,
		"says not why":           func(m *mutant) { m.why = "" },
		"has no TestOneAndOther": func(m *mutant) { m.tests = "TestOne TestOneAndOther" },
	} {
		m, list := good, []mutant{}
		if change == nil {
			list = append(list, good)
		} else {
			change(&m)
		}
		err := checkAll(dir, append(list, m))
		if err == nil || !strings.Contains(strings.ReplaceAll(err.Error(), "no such file or directory", "no such file"), name) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestTheSharesAreAllOfThem(t *testing.T) {
	seen := map[string]int{}
	for _, share := range []string{"1/3", "2/3", "3/3"} {
		chosen, err := choose(all(), "", share)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range chosen {
			seen[m.name]++
		}
	}
	for _, m := range all() {
		if seen[m.name] != 1 {
			t.Errorf("%s is in %d shares", m.name, seen[m.name])
		}
	}
	for _, wrong := range []string{"0/3", "4/3", "half", ""} {
		if _, err := choose(all(), "", wrong); err == nil {
			t.Errorf("-share %q is taken", wrong)
		}
	}
	if _, err := choose(all(), "no such mutant", "1/1"); err == nil {
		t.Error("a pattern that matches none is taken")
	}
}
