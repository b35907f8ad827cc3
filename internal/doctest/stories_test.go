// SPDX-License-Identifier: Apache-2.0

package doctest

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strandline-project/strandline/internal/testkit"
)

// story is a sequence of blocks that run in one shell.
type story struct {
	name   string
	needs  []string
	blocks []block
}

// stories returns the stories of d that have anything to run.
func (d *document) stories() []story {
	current := story{name: "begin"}
	var all []story
	for _, b := range d.blocks() {
		if name, ok := b.mark("story"); ok {
			all = append(all, current)
			current = story{name: name, needs: storyNeeds(b.marks)}
		}
		current.blocks = append(current.blocks, b)
	}
	all = append(all, current)
	var running []story
	for _, s := range all {
		if s.runs() {
			running = append(running, s)
		}
	}
	return running
}

func storyNeeds(marks []string) []string {
	for _, mark := range marks {
		if strings.HasPrefix(mark, "story:") {
			needs, _ := findMark([]string{mark}, "needs")
			return strings.Fields(needs)
		}
	}
	return nil
}

func (b *block) runs() bool {
	_, not := b.mark("not run")
	return b.language == "sh" && !not
}

// needs returns the programs that b asks for beside its story's.
func (b *block) needs() []string {
	for _, mark := range b.marks {
		if !strings.HasPrefix(mark, "story:") {
			if needs, ok := findMark([]string{mark}, "needs"); ok {
				return strings.Fields(needs)
			}
		}
	}
	return nil
}

func (s *story) runs() bool {
	for i := range s.blocks {
		if s.blocks[i].runs() {
			return true
		}
	}
	return false
}

func TestEveryCommandInTheDocumentsWorks(t *testing.T) {
	program := build(t)
	for _, d := range documents(t) {
		for _, s := range d.stories() {
			t.Run(d.name+"/"+s.name, func(t *testing.T) {
				t.Parallel()
				s.run(t, program)
			})
		}
	}
}

// docDirectory is the directory archive in the programs of the documents.
const docDirectory = "dir:/mnt/backup/strandline"

func TestEveryProgramInTheDocumentsRuns(t *testing.T) {
	p := newPlace(t, build(t))
	p.execute(t, logScene)
	for _, d := range documents(t) {
		for _, b := range d.blocks() {
			if b.language != "go" {
				continue
			}
			file := filepath.Join(t.TempDir(), "main.go")
			write(t, file, strings.ReplaceAll(b.text, docDirectory, "dir:"+filepath.Join(p.home, "archive")))
			command := exec.Command("go", "run", file)
			command.Dir = root
			out, err := command.CombinedOutput()
			if err != nil || !strings.Contains(string(out), "1.2 log_created") {
				t.Errorf("%s:%d: %v\n%s", b.document, b.line, err, out)
			}
		}
	}
}

func TestABlockThatIsNotRunSaysWhy(t *testing.T) {
	for _, d := range documents(t) {
		for _, b := range d.blocks() {
			reason, not := b.mark("not run")
			if not && len(reason) < 10 {
				t.Errorf("%s:%d: a block that is not run, and no reason for it", b.document, b.line)
			}
			if b.language == "bash" || b.language == "shell" || b.language == "console" {
				t.Errorf("%s:%d: a block of %s; write sh, and it is run", b.document, b.line, b.language)
			}
		}
	}
}

// The addresses and the bucket that the documents use.
const (
	docListen  = "127.0.0.1:8000"
	docAdmin   = "127.0.0.1:8001"
	docArchive = "s3://backups/strandline?endpoint=http://127.0.0.1:9000"
)

func (s *story) run(t *testing.T, program string) {
	s.wants(t)
	p := newPlace(t, program)
	pairs := []string{docListen, p.listen, docAdmin, p.admin}
	if s.wantsServer() {
		server := testkit.MinIO(t)
		p.environ = append(p.environ, server.Environ()...)
		pairs = append(pairs, docArchive, server.Spec())
	}
	p.replace = strings.NewReplacer(pairs...)
	script, outputs := s.script(t, p)
	out := p.execute(t, script)
	for _, want := range outputs {
		checkOutput(t, want, out, p.home)
	}
}

// wants skips or fails where the story needs what is not here.
func (s *story) wants(t *testing.T) {
	for _, name := range s.needs {
		if name != "minio" {
			testkit.Need(t, name)
		}
	}
	if s.wantsServer() && !testkit.All() {
		testkit.Need(t, "minio") // skips, and says how to run it
	}
}

func (s *story) wantsServer() bool {
	for _, name := range s.needs {
		if name == "minio" {
			return true
		}
	}
	return false
}

// script joins the blocks that run here, and returns the outputs that are to
// be expected of them.
func (s *story) script(t *testing.T, p *place) (script string, outputs []block) {
	var b strings.Builder
	// Whatever still runs at the end is waited for: its home is about to go.
	b.WriteString("set -eu\ntrap 'kill $(jobs -p) 2> /dev/null || true; wait' EXIT\n")
	left := 0
	for i := range s.blocks {
		one := &s.blocks[i]
		if _, ok := one.mark("output"); ok {
			if missing := absent(one.needs()); missing == "" {
				outputs = append(outputs, *one)
			}
			continue
		}
		if !one.runs() {
			continue
		}
		if missing := absent(one.needs()); missing != "" {
			left++
			continue
		}
		fmt.Fprintf(&b, "\n%secho '::: %s:%d'\n%s", p.replace.Replace(one.scene(t)), one.document, one.line, p.replace.Replace(one.text))
	}
	if left > 0 {
		t.Logf("%d blocks left out; all are run by: %s", left, testkit.Command)
	}
	return b.String(), outputs
}

// absent returns a program of those named that is not to be used in this run.
func absent(programs []string) string {
	for _, name := range programs {
		if !testkit.All() {
			return name
		}
		if _, err := exec.LookPath(name); err != nil {
			return "" // it is used, and found missing
		}
	}
	return ""
}

// scenes are what happened before a block, which a reader has at home.
var scenes = map[string]string{
	"a log": logScene,
	"a server that died": `strandline init --data "$HOME/old" --archive "$ARCHIVE"
` + serveScene + dieScene,
	"a machine barred after a loss": `strandline init --data "$HOME/old" --archive "$ARCHIVE"
` + serveScene + `export RESTIC_PASSWORD=x RESTIC_REPOSITORY=rest:http://` + docListen + `/alice/laptop/
restic init
restic backup "$HOME/documents"
` + dieScene + `strandline recover --data "$DATA" --archive "$ARCHIVE"
strandline serve --data "$DATA" --no-auth --take-over &
` + readyScene,
	"a log and a copy of its archive": logScene + `cp -r "$HOME/archive" "$HOME/copy"
`,
}

const (
	logScene = `strandline init --data "$DATA" --archive "$ARCHIVE"
`
	serveScene = `strandline serve --data "$HOME/old" --no-auth &
` + readyScene
	readyScene = `until strandline status --json 2> /dev/null | grep -q '"ready": true'; do sleep 0.2; done
`
	dieScene = `kill -9 $!; wait $! || true
`
)

// scene is what is to be run before b.
func (b *block) scene(t *testing.T) string {
	t.Helper()
	name, ok := b.mark("setup")
	if !ok {
		return ""
	}
	script, ok := scenes[name]
	if !ok {
		t.Fatalf("%s:%d: no scene %q", b.document, b.line, name)
	}
	return script
}

func TestBlocksAreFoundWithTheirMarks(t *testing.T) {
	d := document{name: "x.md", lines: strings.Split("<!-- story: one; needs: minio -->\ntext\n\n<!-- needs: restic -->\n```sh\na\nb\n```\n<!-- not run: because -->\n```sh\nc\n```\n<!-- output -->\ntext\n```text\nd\n```", "\n")}
	all := d.blocks()
	if len(all) != 3 {
		t.Fatalf("%d blocks: %+v", len(all), all)
	}
	if all[0].text != "a\nb\n" || all[0].line != 6 || !all[0].runs() || all[1].runs() {
		t.Errorf("blocks: %+v", all)
	}
	if needs := all[0].needs(); len(needs) != 1 || needs[0] != "restic" {
		t.Errorf("the first block needs %q", needs)
	}
	if _, ok := all[2].mark("output"); ok {
		t.Error("a mark reached over text")
	}
	stories := d.stories()
	if len(stories) != 1 || stories[0].name != "one" || strings.Join(stories[0].needs, " ") != "minio" {
		t.Errorf("stories: %+v", stories)
	}
}
