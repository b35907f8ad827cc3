// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// mutant is one bug.
type mutant struct {
	name string // in words, with dashes
	why  string // what it breaks
	file string // below the repository's root
	cut  string // text that file has exactly once ...
	put  string // ... and what stands there instead
	// in is the package whose tests find it, tests those of them that must: names
	// separated by spaces. More may fail; a list of none would prove nothing.
	in    string
	tests string
}

// all is every mutant there is.
func all() (list []mutant) {
	for _, part := range [][]mutant{ofTheLog, ofTheWAL, ofFormats, ofTheArchiver, ofTheStart, ofTheProjector} {
		list = append(list, part...)
	}
	return list
}

// apply returns file's text with the bug.
func (m *mutant) apply(root string) ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(root, m.file))
	if err != nil {
		return nil, err
	}
	if n := strings.Count(string(text), m.cut); n != 1 {
		return nil, fmt.Errorf("%s holds the text that it replaces %d times: find the place anew\n%s", m.file, n, m.cut)
	}
	mutated := strings.Replace(string(text), m.cut, m.put, 1)
	if _, err := parser.ParseFile(token.NewFileSet(), m.file, mutated, 0); err != nil {
		return nil, fmt.Errorf("it is no Go: %w", err)
	}
	return []byte(mutated), nil
}

// testNames are the tests that must find it.
func (m *mutant) testNames() []string { return strings.Fields(m.tests) }

// checkAll finds each mutant's place and tests, and says which are not there.
func checkAll(root string, list []mutant) error {
	var errs []error
	seen := map[string]bool{}
	for i := range list {
		m := &list[i]
		if seen[m.name] {
			errs = append(errs, fmt.Errorf("%s: there are two of that name", m.name))
		}
		seen[m.name] = true
		if err := m.check(root); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", m.name, err))
		}
	}
	return errors.Join(errs...)
}

func (m *mutant) check(root string) error {
	if m.cut == m.put || m.why == "" || len(m.testNames()) == 0 {
		return errors.New("it changes nothing, says not why, or names no test")
	}
	if _, err := m.apply(root); err != nil {
		return err
	}
	tests, err := testsOf(filepath.Join(root, m.in))
	if err != nil {
		return err
	}
	for _, name := range m.testNames() {
		if !tests[name] {
			return fmt.Errorf("%s has no %s", m.in, name)
		}
	}
	return nil
}

var testFunc = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)

// testsOf returns the tests of the package in dir.
func testsOf(dir string) (map[string]bool, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		return nil, err
	}
	tests := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		for _, match := range testFunc.FindAllSubmatch(text, -1) {
			tests[string(match[1])] = true
		}
	}
	return tests, nil
}
