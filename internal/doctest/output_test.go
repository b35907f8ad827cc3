// SPDX-License-Identifier: Apache-2.0

package doctest

import (
	"regexp"
	"strings"
	"testing"
)

// checkOutput looks for each line of want in out, in any place. A line "..."
// stands for any.
func checkOutput(t *testing.T, want block, out, home string) {
	t.Helper()
	found := map[string]bool{}
	for line := range strings.Lines(out) {
		found[blur(line, home)] = true
	}
	for i, line := range strings.Split(strings.TrimRight(want.text, "\n"), "\n") {
		if blurred := blur(line, home); blurred != "" && blurred != "..." && !found[blurred] {
			t.Errorf("%s:%d: nothing like this was printed: %s\n%s", want.document, want.line+i, line, out)
		}
	}
}

var blurs = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "ADDRESS"},
	{regexp.MustCompile(`s3://\S+`), "BUCKET"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`), "TIME"},
	{regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`), "UUID"},
	{regexp.MustCompile(`[0-9a-f]{16,}`), "HEX"},
	{regexp.MustCompile(`claimed by \S+`), "claimed by HOST"},
	{regexp.MustCompile(`\b\d+(\.\d+)*(ms|µs|s|m)?\b`), "N"},
	{regexp.MustCompile(`\s+`), " "},
}

// blur replaces what differs from run to run.
func blur(line, home string) string {
	line = strings.ReplaceAll(line, home, "~")
	for _, b := range blurs {
		line = b.pattern.ReplaceAllString(line, b.with)
	}
	return strings.TrimSpace(line)
}

func TestBlurKeepsTheWords(t *testing.T) {
	for line, want := range map[string]string{
		"up to seq 2.11 of 2026-11-23T02:41:13Z, 8 objects\n":    "up to seq N of TIME, N objects",
		"log 7868aae0-14de-bb05-d0df-e2110de81acf  in 20ms":      "log UUID in N",
		"archive dir:/home/x/archive at 127.0.0.1:8000":          "archive dir:~/archive at ADDRESS",
		"digest 539a96f0ae43494b38395d1014fdf7c4a325b05f42259ab": "digest HEX",
	} {
		if got := blur(line, "/home/x"); got != want {
			t.Errorf("blur(%q) = %q, want %q", line, got, want)
		}
	}
}
