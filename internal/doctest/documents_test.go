// SPDX-License-Identifier: Apache-2.0

package doctest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// root is the repository, seen from this package.
const root = "../.."

// document is one Markdown file.
type document struct {
	name  string // from the repository's root
	lines []string
}

// block is a fenced block.
type block struct {
	document string
	line     int      // of its first line of content, from 1
	language string   // behind the fence: "sh", "text", ""
	marks    []string // the comments right above it, without their brackets
	text     string
}

// mark returns what follows name in the block's comments.
func (b *block) mark(name string) (string, bool) {
	return findMark(b.marks, name)
}

func findMark(marks []string, name string) (string, bool) {
	for _, mark := range marks {
		for part := range strings.SplitSeq(mark, ";") {
			part = strings.TrimSpace(part)
			if part == name {
				return "", true
			}
			if rest, ok := strings.CutPrefix(part, name+":"); ok {
				return strings.TrimSpace(rest), true
			}
		}
	}
	return "", false
}

// documents reads every Markdown file of the repository.
func documents(t *testing.T) []document {
	t.Helper()
	var found []document
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/adr/*.md"} {
		paths, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			name, err := filepath.Rel(root, path)
			if err != nil {
				t.Fatal(err)
			}
			found = append(found, document{filepath.ToSlash(name), strings.Split(string(text), "\n")})
		}
	}
	if len(found) < 10 {
		t.Fatalf("only %d documents found", len(found))
	}
	return found
}

// read returns one document.
func read(t *testing.T, name string) document {
	t.Helper()
	for _, d := range documents(t) {
		if d.name == name {
			return d
		}
	}
	t.Fatalf("there is no %s", name)
	return document{}
}

// text is the whole document.
func (d *document) text() string { return strings.Join(d.lines, "\n") }

// blocks returns the fenced blocks of d. A comment that stands alone on its
// line marks the next block, unless text comes between; one that begins a story
// may have text behind it.
func (d *document) blocks() []block {
	var all []block
	var marks []string
	var open *block
	for i, line := range d.lines {
		trimmed := strings.TrimSpace(line)
		switch {
		case open != nil && trimmed == "```":
			all = append(all, *open)
			open = nil
		case open != nil:
			open.text += line + "\n"
		case strings.HasPrefix(trimmed, "```"):
			open = &block{document: d.name, line: i + 2, language: strings.TrimPrefix(trimmed, "```"), marks: marks}
			marks = nil
		case strings.HasPrefix(trimmed, "<!--") && strings.HasSuffix(trimmed, "-->"):
			marks = append(marks, strings.TrimSpace(trimmed[4:len(trimmed)-3]))
		case trimmed != "":
			marks = onlyStories(marks)
		}
	}
	return all
}

func onlyStories(marks []string) []string {
	var stories []string
	for _, mark := range marks {
		if strings.HasPrefix(mark, "story:") {
			stories = append(stories, mark)
		}
	}
	return stories
}

// prose returns the lines of d outside of fenced blocks, each with its number.
func (d *document) prose() map[int]string {
	lines := map[int]string{}
	inside := false
	for i, line := range d.lines {
		switch {
		case strings.HasPrefix(strings.TrimSpace(line), "```"):
			inside = !inside
		case !inside:
			lines[i+1] = line
		}
	}
	return lines
}
