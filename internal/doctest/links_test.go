// SPDX-License-Identifier: Apache-2.0

package doctest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"
)

var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

func TestEveryLinkResolves(t *testing.T) {
	all := map[string]document{}
	for _, d := range documents(t) {
		all[d.name] = d
	}
	for _, d := range all {
		for line, text := range d.prose() {
			for _, found := range link.FindAllStringSubmatch(codeSpan.ReplaceAllString(text, "`"), -1) {
				if strings.Contains(found[1], "://") {
					continue
				}
				file, anchor, _ := strings.Cut(found[1], "#")
				target := d.name
				if file != "" {
					target = path.Join(path.Dir(d.name), file)
				}
				if _, err := os.Stat(filepath.Join(root, target)); err != nil {
					t.Errorf("%s:%d: %v", d.name, line, err)
				}
				if other, ok := all[target]; ok && anchor != "" && !other.anchors()[anchor] {
					t.Errorf("%s:%d: %s has no heading #%s", d.name, line, target, anchor)
				}
			}
		}
	}
}

// anchors are the headings of d as GitHub names them.
func (d *document) anchors() map[string]bool {
	names := map[string]bool{}
	for _, line := range d.prose() {
		if title, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && strings.HasPrefix(line, "#") {
			names[slug(title)] = true
		}
	}
	return names
}

func slug(title string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(title) {
		switch {
		case unicode.IsLetter(r) || unicode.IsDigit(r) || r == '-' || r == '_':
			b.WriteRune(r)
		case r == ' ':
			b.WriteRune('-')
		}
	}
	return b.String()
}

func TestTheListOfDecisionsIsWhole(t *testing.T) {
	list := read(t, "docs/adr/README.md")
	for _, d := range documents(t) {
		if path.Dir(d.name) != "docs/adr" || path.Base(d.name) == "README.md" {
			continue
		}
		_, title, _ := strings.Cut(strings.TrimPrefix(d.lines[0], "# "), ". ")
		if !strings.Contains(list.text(), "("+path.Base(d.name)+") | "+title+" |") {
			t.Errorf("docs/adr/README.md does not list %s as %q", d.name, title)
		}
		for _, part := range []string{"**Status:**", "## Context", "## Decision", "## Rejected", "## Consequences"} {
			if !strings.Contains(d.text(), part) {
				t.Errorf("%s has no %s", d.name, part)
			}
		}
	}
}

var (
	filePath  = regexp.MustCompile(`^[\w./-]+\.(?:go|proto|md|txt|yml)$|^(?:internal|cmd|archiver|projector|eventlog|docs|tools)/[\w./-]*$`)
	qualified = regexp.MustCompile(`^(\w+)\.(\w+)$`)
	method    = regexp.MustCompile(`^(?:eventlog|archiver|projector|blockstore)\.(\w+\.\w+)$`)
	function  = regexp.MustCompile(`^[a-z]+[A-Z]\w*$`)
)

// TestEveryNameOfCodeExists looks at the code spans of the documents that
// describe the code: paths must be there, and so must what reads as a name of
// a package, type or function of ours.
func TestEveryNameOfCodeExists(t *testing.T) {
	code := declarations(t)
	for _, d := range documents(t) {
		for line, text := range d.prose() {
			for _, span := range codeSpan.FindAllStringSubmatch(text, -1) {
				if missing := code.missing(d.name, span[1]); missing != "" {
					t.Errorf("%s:%d: %s", d.name, line, missing)
				}
			}
		}
	}
}

// code is what our Go files declare.
type code struct {
	owners  map[string]map[string]bool // of a package or type: what is declared in it
	names   map[string]bool            // functions, types, constants of all packages
	files   map[string]bool            // base names of all files
	methods map[string]bool
}

func (c *code) missing(document, span string) string {
	switch {
	case filePath.MatchString(span):
		for _, base := range []string{".", path.Dir(document)} {
			if _, err := os.Stat(filepath.Join(root, base, span)); err == nil {
				return ""
			}
		}
		if !strings.Contains(span, "/") && c.files[span] {
			return ""
		}
		return "there is no file " + span
	case strings.HasSuffix(span, ".json"): // written by the program, into no place of ours
	case qualified.MatchString(span):
		parts := qualified.FindStringSubmatch(span)
		owned, known := c.owners[parts[1]]
		if known && !owned[parts[2]] {
			return parts[1] + " has no " + parts[2]
		}
	case method.MatchString(span):
		return c.missing(document, method.FindStringSubmatch(span)[1])
	case function.MatchString(span) && !c.names[span] && !c.methods[span]:
		return "nothing is called " + span
	}
	return ""
}

// declarations parses every Go file of ours but tests.
func declarations(t *testing.T) *code {
	t.Helper()
	c := &code{owners: map[string]map[string]bool{}, names: map[string]bool{}, files: map[string]bool{}, methods: map[string]bool{}}
	err := filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (entry.Name() == "tools" || strings.HasPrefix(entry.Name(), ".") && file != root) {
			return filepath.SkipDir
		}
		c.files[entry.Name()] = true
		if strings.HasSuffix(file, ".go") && !strings.HasSuffix(file, "_test.go") {
			return c.read(file)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(c.names) < 500 {
		t.Fatalf("only %d names found", len(c.names))
	}
	return c
}

func (c *code) read(file string) error {
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	for _, declaration := range parsed.Decls {
		switch d := declaration.(type) {
		case *ast.FuncDecl:
			owner := parsed.Name.Name
			if d.Recv != nil {
				owner = receiver(d.Recv.List[0].Type)
				c.methods[d.Name.Name] = true
			}
			c.add(owner, d.Name.Name)
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				c.addSpec(parsed.Name.Name, spec)
			}
		}
	}
	return nil
}

func receiver(expression ast.Expr) string {
	switch e := expression.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}

func (c *code) addSpec(pkg string, spec ast.Spec) {
	switch s := spec.(type) {
	case *ast.TypeSpec:
		c.add(pkg, s.Name.Name)
		switch body := s.Type.(type) {
		case *ast.StructType:
			c.addFields(s.Name.Name, body.Fields)
		case *ast.InterfaceType:
			c.addFields(s.Name.Name, body.Methods)
		}
	case *ast.ValueSpec:
		for _, name := range s.Names {
			c.add(pkg, name.Name)
		}
	}
}

func (c *code) addFields(owner string, fields *ast.FieldList) {
	for _, field := range fields.List {
		for _, name := range field.Names {
			c.add(owner, name.Name)
		}
	}
}

func (c *code) add(owner, name string) {
	if c.owners[owner] == nil {
		c.owners[owner] = map[string]bool{}
	}
	c.owners[owner][name] = true
	c.names[name] = true
}
