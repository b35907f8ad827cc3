// SPDX-License-Identifier: Apache-2.0

package doctest

import (
	"encoding/binary"
	"fmt"
	"go/ast"
	"go/constant"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
)

const format = "docs/FORMAT.md"

// table returns the rows, split into cells, of the table that stands behind
// the line that begins with from in docs/FORMAT.md. The head is left out.
func table(t *testing.T, from string) [][]string {
	t.Helper()
	_, text, found := strings.Cut(read0(t), from)
	if !found {
		t.Fatalf("%s has no %q", format, from)
	}
	var rows [][]string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "|") {
			cells := strings.Split(strings.Trim(line, "|"), "|")
			for i := range cells {
				cells[i] = strings.Trim(strings.TrimSpace(cells[i]), "`")
			}
			rows = append(rows, cells)
		} else if len(rows) > 0 {
			break
		}
	}
	if len(rows) < 3 {
		t.Fatalf("%s: no table behind %q", format, from)
	}
	return rows[2:]
}

func read0(t *testing.T) string {
	t.Helper()
	d := read(t, format)
	return d.text()
}

func TestTheConstantsAreThoseOfTheCode(t *testing.T) {
	packages := map[string]*types.Package{}
	for _, row := range table(t, "<!-- constants -->") {
		pkg, name, _ := strings.Cut(row[0], ".")
		if packages[pkg] == nil {
			packages[pkg] = constants(t, pkg)
		}
		object, ok := packages[pkg].Scope().Lookup(name).(*types.Const)
		if !ok {
			t.Errorf("%s: there is no constant %s", format, row[0])
			continue
		}
		if got := constant.ToInt(object.Val()).ExactString(); got != row[1] {
			t.Errorf("%s: %s is %s in the code, %s here", format, row[0], got, row[1])
		}
	}
}

// constants type-checks a package as far as its constants need.
func constants(t *testing.T, pkg string) *types.Package {
	t.Helper()
	set := token.NewFileSet()
	paths, err := filepath.Glob(filepath.Join(root, pkg, "*.go"))
	if len(paths) == 0 && err == nil {
		paths, err = filepath.Glob(filepath.Join(root, "internal", pkg, "*.go"))
	}
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	config := types.Config{Importer: onlyStandard{importer.ForCompiler(set, "source", nil)}, Error: func(error) {}, IgnoreFuncBodies: true}
	checked, _ := config.Check(pkg, set, files, nil) //nolint:errcheck // what it does not import makes errors, and no constants
	return checked
}

// onlyStandard imports the few packages that constants are made of.
type onlyStandard struct{ types.Importer }

// Import implements types.Importer.
func (i onlyStandard) Import(path string) (*types.Package, error) {
	if path == "time" || path == "math" {
		return i.Importer.Import(path)
	}
	return nil, fmt.Errorf("%s is of no use here", path)
}

// field is one row of a layout whose place is known.
type field struct {
	name         string
	offset, size int
}

// layout returns the fields of a layout with fixed places, which must follow
// on one another, and where they end.
func layout(t *testing.T, name string) (fields map[string]field, end int) {
	t.Helper()
	fields = map[string]field{}
	for _, row := range table(t, "<!-- layout: "+name+" -->") {
		offset, err := strconv.Atoi(row[0])
		size, sizeErr := strconv.Atoi(row[1])
		if err == nil && offset != end {
			t.Errorf("%s: %s: %s at %d, the field before ends at %d", format, name, row[2], offset, end)
		}
		if err != nil || sizeErr != nil {
			continue
		}
		fields[row[2]] = field{row[2], offset, size}
		end = offset + size
	}
	return fields, end
}

// at reads a field of b.
func (f field) at(b []byte) uint64 {
	var whole [8]byte
	copy(whole[:], b[f.offset:f.offset+min(f.size, 8)])
	return binary.LittleEndian.Uint64(whole[:])
}

func TestTheTrailerLiesAsDocumented(t *testing.T) {
	fields, end := layout(t, "trailer")
	if end != eventlog.TrailerSize {
		t.Errorf("the documented trailer ends at %d, want %d", end, eventlog.TrailerSize)
	}
	b := eventlog.AppendTrailer(nil, &eventlog.Trailer{
		LogID: eventlog.ID{1}, Writer: eventlog.ID{2}, Epoch: 3, FirstOrdinal: 4, LastOrdinal: 5, First: 6, Last: 7, Events: 8,
		PayloadSum: 9, PayloadBytes: 10, FooterOffset: 11, FooterSize: 12, FooterRawSize: 13, FooterSum: 14, ClosedAt: 15, Flags: 1,
	})
	for name, want := range map[string]uint64{
		"version": eventlog.ObjectVersion, "flags": 1, "log id": 1, "writer": 2, "epoch": 3, "first ordinal": 4, "last ordinal": 5, "first seq": 6,
		"last seq": 7, "events": 8, "payload sum": 9, "payload bytes": 10, "footer offset": 11, "footer size": 12, "footer raw size": 13,
		"footer sum": 14, "closed at": 15, "reserved": 0, "trailer sum": uint64(eventlog.Checksum(b[:140])),
	} {
		if got := fields[name].at(b); got != want {
			t.Errorf("%s: %s at %d is %d, want %d", format, name, fields[name].offset, got, want)
		}
	}
}

func TestTheFooterLiesAsDocumented(t *testing.T) {
	head, end := layout(t, "footer")
	event := eventlog.Event{Seq: eventlog.FirstSeq, Type: eventlog.LogCreated}
	entry := eventlog.Entry{Event: event, Raw: eventlog.AppendEvent(nil, &event), Placement: eventlog.Placement{Offset: 8, Length: 5, Sums: []byte{1, 2, 3, 4}}}
	cleaned := []eventlog.Range{{First: 21, Last: 22}}
	b := eventlog.AppendFooter(nil, []eventlog.Entry{entry}, cleaned, 23)
	for name, want := range map[string]uint64{"entries": 1, "cleaned ranges": 1, "reserved": 0, "horizon": 23} {
		if got := head[name].at(b); got != want {
			t.Errorf("%s: %s at %d is %d, want %d", format, name, head[name].offset, got, want)
		}
	}
	if first, last := binary.LittleEndian.Uint64(b[end:]), binary.LittleEndian.Uint64(b[end+8:]); first != 21 || last != 22 {
		t.Errorf("%s: behind the head stands %d-%d, want the cleaned range", format, first, last)
	}
	row, rowEnd := layout(t, "entry")
	b = b[end+16:]
	for name, want := range map[string]uint64{"event size": uint64(len(entry.Raw)), "payload offset": 8, "payload length": 5} {
		if got := row[name].at(b); got != want {
			t.Errorf("%s: %s at %d is %d, want %d", format, name, row[name].offset, got, want)
		}
	}
	if got := string(b[rowEnd : rowEnd+len(entry.Raw)]); got != string(entry.Raw) {
		t.Errorf("%s: the event is not at %d of an entry", format, rowEnd)
	}
}

func TestFrameAndHeadLieAsDocumented(t *testing.T) {
	for name, size := range map[string]string{"frame": "frameHeader", "head": "headSize"} {
		_, end := layout(t, name)
		want := constants(t, "eventlog").Scope().Lookup(size).(*types.Const).Val().ExactString()
		if strconv.Itoa(end) != want {
			t.Errorf("%s: the fixed part of a %s ends at %d, want %s", format, name, end, want)
		}
	}
}

func TestIndexObjectsLieAsDocumented(t *testing.T) {
	for name, size := range map[string]string{"index entry": "indexEntrySize", "index end": "indexEndSize"} {
		_, end := layout(t, name)
		want := constants(t, "archiver").Scope().Lookup(size).(*types.Const).Val().ExactString()
		if strconv.Itoa(end) != want {
			t.Errorf("%s: the %s ends at %d, want %s", format, name, end, want)
		}
	}
	golden, err := os.ReadFile(filepath.Join(root, "archiver", "testdata", "index.object"))
	if err != nil {
		t.Fatal(err)
	}
	entry, entrySize := layout(t, "index entry")
	last, endSize := layout(t, "index end")
	at := len(golden) - endSize - archiver.RunSize*entrySize
	end := golden[len(golden)-endSize:]
	for name, want := range map[string]uint64{
		"version": 1, "objects": archiver.RunSize, "log id": 0x1aa, "first ordinal": 257, "last ordinal": 512, "directory offset": uint64(at),
		"directory sum": uint64(eventlog.Checksum(golden[at : len(golden)-endSize])), "end sum": uint64(eventlog.Checksum(end[:endSize-4])),
	} {
		if got := last[name].at(end); got != want {
			t.Errorf("%s: %s of an index object's end is %d, want %d", format, name, got, want)
		}
	}
	trailer, err := eventlog.DecodeTrailer(golden[at+entry["trailer"].offset:][:eventlog.TrailerSize])
	if err != nil || trailer.FirstOrdinal != 257 || trailer.Check(int64(entry["object size"].at(golden[at:]))) != nil {
		t.Errorf("%s: the first entry of an index object has the trailer %+v, %v", format, trailer, err)
	}
}

func TestTheMagicsAreThoseOfTheCode(t *testing.T) {
	text := read0(t)
	scope := constants(t, "eventlog").Scope()
	for _, name := range []string{"ObjectMagic", "trailerMagic", "footerMagic", "frameMagic", "segmentName", "payloadName", "closedName"} {
		magic := constant.StringVal(scope.Lookup(name).(*types.Const).Val())
		shown := strings.ReplaceAll(magic, "\r\n", `\r\n`)
		if !strings.Contains(text, "`"+shown+"`") {
			t.Errorf("%s does not show %s, `%s`", format, name, shown)
		}
	}
	for _, key := range []string{archiver.ManifestKey, archiver.EpochPrefix + "<10 digits>", archiver.LogPrefix + "<16 digits>-<16 digits>.<4 digits>"} {
		if !strings.Contains(text, "`"+key+"`") {
			t.Errorf("%s does not show the key `%s`", format, key)
		}
	}
	if got := archiver.Shipped(5).Key(); got != "log/0000000000000005-0000000000000005.0000" {
		t.Errorf("the documented key of ordinal 5 is %s now", got)
	}
}

func TestTheEventIsThatOfTheProtoFile(t *testing.T) {
	proto, err := os.ReadFile(filepath.Join(root, "eventlog/event.proto"))
	if err != nil {
		t.Fatal(err)
	}
	_, message, _ := strings.Cut(string(proto), "message Event {")
	message, _, _ = strings.Cut(message, "\n}")
	numbers := map[string]string{}
	for _, found := range regexp.MustCompile(`(?m)^\s+[\w ]+ (\w+) = (\d+);`).FindAllStringSubmatch(message, -1) {
		numbers[found[1]] = found[2]
	}
	for _, row := range table(t, "nothing encodes an event again.") {
		if numbers[row[1]] != row[0] {
			t.Errorf("%s: field %s is %q in event.proto, %s here", format, row[1], numbers[row[1]], row[0])
		}
		delete(numbers, row[1])
	}
	for name, number := range numbers {
		t.Errorf("%s lacks the field %s, %s", format, name, number)
	}
}

func TestTheTypesOfEventsAreAllThere(t *testing.T) {
	rows := table(t, "| 30 | `drill` | Drill: verdict, times, what was read back | `drill_completed` |\n")
	if len(rows) != len(eventlog.Types()) {
		t.Errorf("%s has %d types of events, want %d", format, len(rows), len(eventlog.Types()))
	}
	for i, kind := range eventlog.Types() {
		want := "no"
		if kind.Emitted() {
			want = "yes"
		}
		if rows[i][0] != strconv.Itoa(int(kind)) || rows[i][1] != kind.String() || rows[i][3] != want {
			t.Errorf("%s: %v, want %d %s, written: %s", format, rows[i], kind, kind, want)
		}
	}
}
