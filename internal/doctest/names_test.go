// SPDX-License-Identifier: Apache-2.0

package doctest

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/metrics"
)

// manual is what the program says of itself: the flags of each command, by the
// command's words, "" being the program.
type manual map[string]map[string]bool

var (
	flagLine    = regexp.MustCompile(`^\s+(?:-\w, )?--([a-z0-9-]+)`)
	commandLine = regexp.MustCompile(`^  ([a-z-]+)\s{2,}\S`)
)

// readManual asks the program, command by command.
func readManual(t *testing.T, program string) manual {
	t.Helper()
	m := manual{}
	m.read(t, program, nil)
	if len(m) < 10 {
		t.Fatalf("only %d commands found", len(m))
	}
	return m
}

func (m manual) read(t *testing.T, program string, words []string) {
	t.Helper()
	text := help(t, program, words...)
	flags := map[string]bool{}
	var below []string
	section := ""
	for line := range strings.Lines(text) {
		if strings.HasSuffix(strings.TrimSpace(line), ":") && !strings.HasPrefix(line, " ") {
			section = strings.TrimSpace(line)
		}
		if found := flagLine.FindStringSubmatch(line); found != nil && strings.Contains(section, "Flags") {
			flags[found[1]] = true
		}
		if found := commandLine.FindStringSubmatch(line); found != nil && section == "Available Commands:" {
			below = append(below, found[1])
		}
	}
	m[strings.Join(words, " ")] = flags
	for _, word := range below {
		if word != "completion" && word != "help" {
			m.read(t, program, append(slices.Clone(words), word))
		}
	}
}

func help(t *testing.T, program string, words ...string) string {
	t.Helper()
	out, err := exec.Command(program, append([]string{"help"}, words...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("help %v: %v\n%s", words, err, out)
	}
	return string(out)
}

// anyFlag reports whether any command has the flag.
func (m manual) anyFlag(name string) bool {
	for _, flags := range m {
		if flags[name] {
			return true
		}
	}
	return false
}

var (
	codeSpan  = regexp.MustCompile("`([^`]+)`")
	flagWord  = regexp.MustCompile(`(?:^|\s)--([a-z][a-z0-9-]*)`)
	otherTool = regexp.MustCompile(`^(?:restic|rustic|rest-server|rclone|mc|rsync|go|htpasswd|curl|just)\b`)
)

// commands yields the pieces of d that may hold commands: code spans of the
// prose, and lines of blocks, continued ones joined.
func (d *document) commands() map[string]int {
	pieces := map[string]int{}
	for line, text := range d.prose() {
		for _, span := range codeSpan.FindAllStringSubmatch(text, -1) {
			pieces[span[1]] = line
		}
	}
	for _, b := range d.blocks() {
		if b.language != "sh" && b.language != "text" && b.language != "ini" && b.language != "" {
			continue
		}
		joined := strings.ReplaceAll(b.text, "\\\n", " ")
		for i, text := range strings.Split(joined, "\n") {
			pieces[text] = b.line + i
		}
	}
	return pieces
}

func TestEveryCommandAndFlagExists(t *testing.T) {
	m := readManual(t, build(t))
	for _, d := range documents(t) {
		for piece, line := range d.commands() {
			m.check(t, d.name, line, piece)
		}
	}
}

// check looks at one piece, which may hold several commands.
func (m manual) check(t *testing.T, document string, line int, piece string) {
	t.Helper()
	for part := range strings.FieldsFuncSeq(piece, func(r rune) bool { return strings.ContainsRune(";&|()", r) }) {
		part = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(part), "go run ./cmd/"))
		command, rest := "", part
		_, after, found := strings.Cut(part, "strandline ")
		before := strings.TrimSuffix(part, "strandline "+after)
		switch {
		case found && (before == "" || strings.HasSuffix(before, " ") || strings.HasSuffix(before, "/")):
			command, rest = m.command(after)
			if word, _, _ := strings.Cut(after, " "); command == "" && regexp.MustCompile(`^[a-z-]+$`).MatchString(word) && word != "help" && strings.HasPrefix(part, "strandline ") {
				t.Errorf("%s:%d: there is no command strandline %s", document, line, word)
			}
		case otherTool.MatchString(part) || !strings.HasPrefix(part, "--"):
			continue
		}
		for _, flag := range flagWord.FindAllStringSubmatch(rest, -1) {
			if known := m[command][flag[1]] || command == "" && m.anyFlag(flag[1]); !known {
				t.Errorf("%s:%d: strandline %s has no flag --%s: %s", document, line, command, flag[1], piece)
			}
		}
	}
}

// command returns the longest command that text begins with, and what stands
// behind it.
func (m manual) command(text string) (command, rest string) {
	words := strings.Fields(text)
	for n := len(words); n > 0; n-- {
		if name := strings.Join(words[:n], " "); m[name] != nil {
			return name, strings.Join(words[n:], " ")
		}
	}
	return "", text
}

func TestEveryHelpTextHasAnExampleThatParses(t *testing.T) {
	program := build(t)
	m := readManual(t, program)
	for name := range m {
		text := help(t, program, strings.Fields(name)...)
		_, examples, found := strings.Cut(text, "\nExamples:\n")
		if !found {
			t.Errorf("strandline %s: its help has no example", name)
			continue
		}
		examples, _, _ = strings.Cut(examples, "\n\n")
		for line := range strings.Lines(examples) {
			m.check(t, "help "+name, 0, strings.TrimSpace(line))
		}
	}
}

func TestEverySettingInTheEnvironmentExists(t *testing.T) {
	m := readManual(t, build(t))
	variable := regexp.MustCompile(`\bSTRANDLINE_[A-Z_]*[A-Z]\b`)
	for _, d := range documents(t) {
		for i, line := range d.lines {
			for _, name := range variable.FindAllString(line, -1) {
				if name == "STRANDLINE_TESTS" || name == "STRANDLINE_CONFIG" {
					continue
				}
				flag := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(name, "STRANDLINE_"), "_", "-"))
				if !m["serve"][flag] {
					t.Errorf("%s:%d: there is no setting %s", d.name, i+1, name)
				}
			}
		}
	}
}

func TestEveryMetricExists(t *testing.T) {
	known := exported(t)
	name := regexp.MustCompile(`\bstrandline_[a-z_]+[a-z]\b`)
	for _, d := range documents(t) {
		for i, line := range d.lines {
			for _, found := range name.FindAllString(line, -1) {
				bare := found
				for _, suffix := range []string{"_bucket", "_count", "_sum"} {
					bare = strings.TrimSuffix(bare, suffix)
				}
				if !known[found] && !known[bare] {
					t.Errorf("%s:%d: there is no metric %s", d.name, i+1, found)
				}
			}
		}
	}
}

// exported returns the names of all metrics there are.
func exported(t *testing.T) map[string]bool {
	t.Helper()
	m := metrics.New()
	m.Watch(func() metrics.State {
		return metrics.State{Mode: "serving", Committed: eventlog.FirstSeq, Archived: eventlog.FirstSeq, Views: []metrics.ViewState{{Name: "block", Position: eventlog.FirstSeq}}}
	})
	m.Observe("GET", "data", 200, 1, 1, time.Second)
	m.ObserveArchive("put", time.Second, nil)
	answer := httptest.NewRecorder()
	m.Handler(slog.New(slog.DiscardHandler)).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	golden, err := os.ReadFile(filepath.Join(root, "internal/metrics/testdata/metrics.txt"))
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for line := range strings.Lines(string(text) + string(golden)) {
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, _, _ := strings.Cut(rest, " ")
			known[name] = true
		}
	}
	if len(known) < 30 {
		t.Fatalf("only %d metrics found", len(known))
	}
	return known
}

func TestTheExitCodesAreThoseOfTheProgram(t *testing.T) {
	row := regexp.MustCompile(`(?m)^ *(\d+) +(.+)$`)
	documented := regexp.MustCompile(`(?m)^\| (\d+) \| ([^|]+) \|`)
	operations := read(t, "docs/OPERATIONS.md")
	inDocument := map[string]string{}
	_, section, _ := strings.Cut(operations.text(), "\n## Exit codes\n")
	for _, found := range documented.FindAllStringSubmatch(section, -1) {
		inDocument[found[1]] = strings.TrimSpace(found[2])
	}
	for _, found := range row.FindAllStringSubmatch(help(t, build(t), "exit-codes"), -1) {
		if inDocument[found[1]] != strings.TrimSpace(found[2]) {
			t.Errorf("exit code %s is %q in the program, %q in docs/OPERATIONS.md", found[1], found[2], inDocument[found[1]])
		}
		delete(inDocument, found[1])
	}
	if len(inDocument) > 0 {
		t.Errorf("docs/OPERATIONS.md has exit codes that the program has not: %v", inDocument)
	}
}
