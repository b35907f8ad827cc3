// SPDX-License-Identifier: Apache-2.0

package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A Go mutex cannot be taken twice. So while a method holds a mutex of its
// receiver it calls no method that takes the same one, and hands the receiver to
// nobody who prints it: its String may take the mutex, and a text without String
// reads every field.
func TestNoMethodTakesAMutexThatItHoldsOrPrintsItsReceiverUnderOne(t *testing.T) {
	const root = "../.."
	files := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		if name := d.Name(); name == "testdata" || name == "tools" || strings.HasPrefix(name, ".") && path != root {
			return fs.SkipDir
		}
		p := parsePackage(t, path)
		for _, file := range p.files {
			files++
			for _, problem := range p.problems(file) {
				t.Error(problem)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 100 {
		t.Errorf("%d files were looked at", files)
	}
}

func TestAMutexThatIsTakenTwiceIsFound(t *testing.T) {
	const head = "package p\n\nfunc (g *G) String() string { g.mu.Lock(); defer g.mu.Unlock(); return g.name }\n\n"
	for text, want := range map[string]int{
		"func (g *G) f() error { g.mu.Lock(); defer g.mu.Unlock(); if g.bad { return fmt.Errorf(\"opening %s\", g) }; return nil }":           1,
		"func (g *G) f() string { g.mu.Lock(); defer g.mu.Unlock(); return g.String() }":                                                      1,
		"func (g *G) f() { g.mu.Lock(); g.log.Warn(\"it\", \"who\", g); g.mu.Unlock() }":                                                      1,
		"func (g *G) fLocked() string { return g.String() }":                                                                                  1,
		"func (g *G) f() string { g.mu.Lock(); if g.bad { g.mu.Unlock(); return g.String() }; g.mu.Unlock(); return \"\" }":                   0,
		"func (g *G) f() string { g.mu.Lock(); name := g.name; g.mu.Unlock(); return fmt.Sprint(name, g) }":                                   0,
		"func (g *G) f() { g.mu.Lock(); defer g.mu.Unlock(); go func() { g.log.Warn(g.String()) }() }":                                        0,
		"func (g *G) f() string { g.other.Lock(); defer g.other.Unlock(); return g.String() }":                                                0,
		"func (g *G) f() { g.mu.Lock(); for g.busy { g.mu.Unlock(); g.String(); g.mu.Lock() }; g.mu.Unlock() }":                               0,
		"func (g *G) f() { g.mu.Lock(); for range 3 { g.note() }; g.mu.Unlock() }; func (g *G) note() { g.mu.RLock(); defer g.mu.RUnlock() }": 1,
	} {
		p := &source{fset: token.NewFileSet()}
		file, err := parser.ParseFile(p.fset, "p.go", head+text, 0)
		if err != nil {
			t.Fatal(err)
		}
		p.files = []*ast.File{file}
		if problems := p.problems(file); len(problems) != want {
			t.Errorf("%s\nhas the problems %q, want %d", text, problems, want)
		}
	}
}

// source is one package's files.
type source struct {
	fset  *token.FileSet
	files []*ast.File
}

func parsePackage(t *testing.T, dir string) *source {
	t.Helper()
	p := &source{fset: token.NewFileSet()}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if name := entry.Name(); !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(p.fset, filepath.Join(dir, entry.Name()), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		p.files = append(p.files, file)
	}
	return p
}

// method names a method and a mutex of its receiver.
type method struct{ receiver, name, mutex string }

// takes lists which methods lock which of their receiver's mutexes.
func (p *source) takes() map[method]bool {
	all := map[method]bool{}
	for _, file := range p.files {
		for _, f := range methodsOf(file) {
			ast.Inspect(f.Body, func(n ast.Node) bool {
				if _, later := n.(*ast.FuncLit); later {
					return false
				}
				if call, ok := n.(*ast.CallExpr); ok {
					if mutex, verb := mutexCall(call, nameOf(f)); verb == "Lock" || verb == "RLock" {
						all[method{typeOf(f), f.Name.Name, mutex}] = true
					}
				}
				return true
			})
		}
	}
	return all
}

// problems lists what the methods of a file do wrong.
func (p *source) problems(file *ast.File) []string {
	var found []string
	takes := p.takes()
	for _, f := range methodsOf(file) {
		c := &lockCheck{self: nameOf(f), receiver: typeOf(f), takes: takes, held: map[string]bool{}}
		if strings.HasSuffix(f.Name.Name, "Locked") {
			c.held["mu"] = true
		}
		c.block(f.Body.List)
		for _, pos := range c.found {
			found = append(found, p.fset.Position(pos).String()+": "+typeOf(f)+"."+f.Name.Name+" takes, or prints its receiver under, a mutex that it holds")
		}
	}
	return found
}

// lockCheck goes through one method's statements in order.
type lockCheck struct {
	self, receiver string
	takes          map[method]bool
	held           map[string]bool // the receiver's mutexes that are held here
	found          []token.Pos
}

func (c *lockCheck) block(statements []ast.Stmt) {
	for _, statement := range statements {
		switch s := statement.(type) {
		case *ast.DeferStmt: // it runs at the end
		case *ast.ExprStmt:
			if call, ok := s.X.(*ast.CallExpr); ok {
				if mutex, verb := mutexCall(call, c.self); verb != "" {
					c.held[mutex] = strings.HasSuffix(verb, "Lock") && !strings.HasSuffix(verb, "Unlock")
					continue
				}
			}
			c.look(s)
		default:
			c.look(s)
		}
	}
}

// look finds calls in a statement. A block within it may let mutexes go for its
// own statements.
func (c *lockCheck) look(n ast.Node) {
	ast.Inspect(n, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit: // it runs some other time
			return false
		case *ast.BlockStmt:
			c.inner(n.List)
			return false
		case *ast.CaseClause:
			c.inner(n.Body)
			return false
		case *ast.CommClause:
			c.inner(n.Body)
			return false
		case *ast.CallExpr:
			if c.wrong(n) {
				c.found = append(c.found, n.Pos())
			}
		}
		return true
	})
}

func (c *lockCheck) inner(statements []ast.Stmt) {
	before := map[string]bool{}
	for mutex, held := range c.held {
		before[mutex] = held
	}
	c.block(statements)
	c.held = before
}

// wrong says whether a call takes a mutex that is held, or prints the receiver.
func (c *lockCheck) wrong(call *ast.CallExpr) bool {
	target, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	for mutex, held := range c.held {
		if held && isName(target.X, c.self) && c.takes[method{c.receiver, target.Sel.Name, mutex}] {
			return true
		}
		if !held || !isName(target.X, "fmt") && !isName(target.X, "slog") && !strings.Contains(" Debug Info Warn Error Log ", " "+target.Sel.Name+" ") {
			continue
		}
		for _, argument := range call.Args {
			if isName(argument, c.self) {
				return true
			}
		}
	}
	return false
}

func methodsOf(file *ast.File) []*ast.FuncDecl {
	var all []*ast.FuncDecl
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Recv != nil && f.Body != nil && len(f.Recv.List[0].Names) == 1 {
			all = append(all, f)
		}
	}
	return all
}

func nameOf(f *ast.FuncDecl) string { return f.Recv.List[0].Names[0].Name }

func typeOf(f *ast.FuncDecl) string {
	t := f.Recv.List[0].Type
	if star, ok := t.(*ast.StarExpr); ok {
		t = star.X
	}
	if generic, ok := t.(*ast.IndexExpr); ok {
		t = generic.X
	}
	if name, ok := t.(*ast.Ident); ok {
		return name.Name
	}
	return ""
}

// mutexCall says which mutex of self a call locks or unlocks, and how.
func mutexCall(call *ast.CallExpr, self string) (mutex, verb string) {
	target, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return "", ""
	}
	field, ok := target.X.(*ast.SelectorExpr)
	if !ok || !isName(field.X, self) {
		return "", ""
	}
	switch target.Sel.Name {
	case "Lock", "RLock", "Unlock", "RUnlock":
		return field.Sel.Name, target.Sel.Name
	}
	return "", ""
}

func isName(e ast.Expr, name string) bool {
	id, ok := e.(*ast.Ident)
	return ok && id.Name == name
}
