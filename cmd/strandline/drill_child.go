// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/strandline-project/strandline/internal/drill"
	"github.com/strandline-project/strandline/internal/progress"
)

// A server drills in a process of its own: its own program again, at the
// lowest priority of processor and disk, with one processor and little memory,
// and standing still for most of the time while clients are served. The request
// is a line of JSON on its standard input, which then stays open: when it ends,
// so does the child. What it says on its standard output is lines of childLine.

const (
	childCommand = "drill-work"
	// childProcessors and childMemory are what a drill may take of the machine,
	// beside nice 19 and idle disk priority.
	childProcessors = "1"
	childMemory     = "384MiB"
	// childTells is how often the child says how far it is.
	childTells = time.Second
	// childEnds is how long a child that was killed is waited for.
	childEnds = 10 * time.Second
)

// childLine is one line of a drill's process.
type childLine struct {
	Progress *progress.Snapshot `json:"progress,omitempty"`
	Result   *drill.Result      `json:"result,omitempty"` // the last line of one that came to a verdict
	Error    string             `json:"error,omitempty"`  // the last line of one that could not be done
	Code     int                `json:"code,omitempty"`   // with Error
}

// newDrillWork is the command of the child; people have no use for it.
func newDrillWork(*globals) *cobra.Command {
	return &cobra.Command{
		Use: childCommand, Short: "What a server starts to drill", Hidden: true, Args: cobra.NoArgs,
		Example: "  strandline drill",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return workAsChild(cmd.Context(), os.Stdin, cmd.OutOrStdout())
		},
	}
}

// workAsChild does what one line on in asks for, until in ends.
func workAsChild(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	requests := bufio.NewReader(in)
	line, err := requests.ReadBytes('\n')
	if err != nil {
		return usagef("%s is started by a server that drills: write strandline drill", childCommand)
	}
	if err := firstToGo(); err != nil {
		fmt.Fprintf(os.Stderr, "strandline: %v\n", err) // the server tells it should this process be killed
	}
	work := &drillWork{log: slog.New(slog.DiscardHandler)} // the server logs what comes of it
	if err := json.Unmarshal(line, &work.drillRequest); err != nil {
		return fmt.Errorf("read what to drill: %w", err)
	}
	go func() { // ends with the process at the latest
		_, _ = io.Copy(io.Discard, requests) // whatever ended it: the server has gone
		cancel()
	}()
	lines := &childWriter{out: json.NewEncoder(out)}
	var telling sync.WaitGroup
	work.watch = func(bar *progress.Progress) { telling.Go(func() { lines.tell(ctx, bar) }) }
	bucket, err := (&lazyBucket{spec: work.Archive}).bucket()
	var result *drill.Result
	if err == nil {
		result, err = work.do(ctx, bucket)
	}
	cancel()
	telling.Wait()
	if err != nil {
		return lines.write(childLine{Error: err.Error(), Code: exitCode(err)})
	}
	return lines.write(childLine{Result: result})
}

type childWriter struct{ out *json.Encoder }

func (w *childWriter) write(line childLine) error {
	if err := w.out.Encode(line); err != nil {
		return fmt.Errorf("tell the server: %w", err)
	}
	return nil
}

// tell says how far the drill is, and of each phase how it ended, until ctx ends
// or nobody listens.
func (w *childWriter) tell(ctx context.Context, bar *progress.Progress) {
	ticker := time.NewTicker(childTells)
	defer ticker.Stop()
	ended := 0 // phases that were told of to the end
	for running := true; running; {
		select {
		case <-ctx.Done():
			running = false // what ended since is told
		case <-ticker.C:
		}
		lines := bar.Phases()[ended:]
		ended += len(lines)
		if now := bar.Snapshot(); now.Phase != "" {
			lines = append(lines, now)
		}
		for _, now := range lines {
			if w.write(childLine{Progress: &now}) != nil {
				return
			}
		}
	}
}

// drillInChild has a child do the drill and tells report how far it is. While
// busy says so the child gives way. It is killed when ctx ends, and when this
// process does.
func drillInChild(ctx context.Context, request drillRequest, busy func() bool, report func(progress.Snapshot)) (*drill.Result, error) {
	line, err := json.Marshal(request)
	if err != nil {
		return nil, fmt.Errorf("ask for a drill: %w", err)
	}
	program, err := ownProgram()
	if err != nil {
		return nil, err
	}
	in, hold, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("ask for a drill: %w", err)
	}
	out, tell := io.Pipe()
	var last tail
	cmd := exec.CommandContext(ctx, program)
	cmd.Args = []string{"strandline", childCommand}
	cmd.Env = append(slices.DeleteFunc(os.Environ(), notForChild), "GOMAXPROCS="+childProcessors, "GOMEMLIMIT="+childMemory)
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = in, tell, &last, childEnds
	var final childLine
	read := make(chan error, 1)
	go func() { read <- readChild(out, &final, report) }()
	_, err = hold.Write(append(line, '\n'))
	if err == nil {
		err = runLow(cmd, busy)
	}
	tell.CloseWithError(io.EOF)
	err = errors.Join(err, <-read, in.Close(), hold.Close())
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case final.Error != "":
		return nil, withCode(final.Code, errors.New(final.Error))
	case err != nil:
		return nil, fmt.Errorf("the drill's process: %w: %s", err, last.text())
	case final.Result == nil:
		return nil, fmt.Errorf("the drill's process ended without a result: %s", last.text())
	}
	return final.Result, nil
}

// notForChild are variables that are the server's alone: the service manager
// hears of the server only.
func notForChild(variable string) bool {
	name, _, _ := strings.Cut(variable, "=")
	return name == "NOTIFY_SOCKET" || name == "GOMAXPROCS" || name == "GOMEMLIMIT" || name == "GOGC"
}

// maxChildLine is more than any line of a drill's process has.
const maxChildLine = 16 << 20

// readChild reads the child's lines; the last one stays in final. It reads to
// the end whatever comes, so that the child is never kept waiting.
func readChild(out io.Reader, final *childLine, report func(progress.Snapshot)) error {
	lines := bufio.NewScanner(out)
	lines.Buffer(make([]byte, 64<<10), maxChildLine)
	for lines.Scan() {
		var line childLine
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			_, drained := io.Copy(io.Discard, out)
			return errors.Join(fmt.Errorf("a line that is no JSON: %w", err), drained)
		}
		if line.Progress != nil {
			report(*line.Progress)
			continue
		}
		*final = line
	}
	_, drained := io.Copy(io.Discard, out)
	return errors.Join(lines.Err(), drained)
}

// tail keeps the end of what a process complains of.
type tail struct {
	mu  sync.Mutex
	end []byte // owned by mu
}

const tailSize = 2 << 10

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end = append(t.end, p...)
	t.end = t.end[max(0, len(t.end)-tailSize):]
	return len(p), nil
}

func (t *tail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.end))
}
