// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/iotest"
)

func newMemory(t *testing.T, free int64) *memory {
	t.Helper()
	return &memory{free: free, spool: t.TempDir()}
}

func bodyBytes(t *testing.T, b *Body) []byte {
	t.Helper()
	var out bytes.Buffer
	must(t, b.writeTo(&out))
	return out.Bytes()
}

func TestABodyComesBackAsItWasWhateverItsSizeAndWhereverItIsKept(t *testing.T) {
	sizes := []int{
		0, 1, 1000, ChunkSize - 1, ChunkSize, ChunkSize + 1, bufferSize - 1, bufferSize, bufferSize + 1,
		2 * bufferSize, 3*bufferSize + 12345,
	}
	budgets := map[string]int64{"memory": 1 << 30, "a spool file": 0, "memory, then a spool file": bufferSize}
	readers := map[string]func(io.Reader) io.Reader{
		"at once": func(r io.Reader) io.Reader { return r }, "in halves": iotest.HalfReader,
		"with the end in the last read": iotest.DataErrReader,
	}
	for where, budget := range budgets {
		for how, reader := range readers {
			for _, size := range sizes {
				for _, declared := range []int64{int64(size), -1} {
					want := content(uint64(size), size)
					m := newMemory(t, budget)
					limits := limitsOn(500*gib, 1000*gib, Limits{})
					b, err := m.receive(reader(bytes.NewReader(want)), declared, 1<<30, roomFor(limits, declared))
					must(t, err)
					checkBody(t, b, want)
					if t.Failed() {
						t.Fatalf("%d bytes, declared %d, in %s, read %s", size, declared, where, how)
					}
					b.Release()
					b.Release()
					if m.free != budget {
						t.Fatalf("%d of %d bytes came back", m.free, budget)
					}
					nothingPromised(t, limits)
					if left, err := os.ReadDir(m.spool); err != nil || len(left) > 0 {
						t.Fatalf("the spool folder holds %v, %v", left, err)
					}
				}
			}
		}
	}
}

func checkBody(t *testing.T, b *Body, want []byte) {
	t.Helper()
	if !bytes.Equal(bodyBytes(t, b), want) || b.Length != uint64(len(want)) {
		t.Errorf("%d bytes came back, %d went in", b.Length, len(want))
	}
	if b.SHA256 != sha256.Sum256(want) || b.Checksum != Checksum(want) {
		t.Errorf("hash or checksum is not that of the content")
	}
	if uint64(len(b.Sums)) != 4*Chunks(b.Length) {
		t.Fatalf("%d bytes of sums for %d bytes", len(b.Sums), b.Length)
	}
	for i := range Chunks(b.Length) {
		chunk := want[i*ChunkSize : min((i+1)*ChunkSize, b.Length)]
		if binary.LittleEndian.Uint32(b.Sums[4*i:]) != Checksum(chunk) {
			t.Errorf("the sum of chunk %d is wrong", i)
		}
	}
}

func TestABodyThatIsCutShortOrTooLargeIsRefusedAndNothingOfItKept(t *testing.T) {
	cause := errors.New("connection reset")
	cut := func(n int, err error) io.Reader {
		return io.MultiReader(bytes.NewReader(content(1, n)), iotest.ErrReader(err))
	}
	tests := []struct {
		name  string
		r     io.Reader
		size  int64
		limit int64
		want  error
	}{
		{"it ends before its declared length", bytes.NewReader(content(1, 99)), 100, 1000, ErrShortBody},
		{"it ends at once", strings.NewReader(""), 100, 1000, ErrShortBody},
		{"its connection breaks", cut(300_000, cause), 400_000, 1 << 20, ErrShortBody},
		{"the cause is kept", cut(50, cause), 100, 1000, cause},
		{"it is cut at a chunk's end", cut(ChunkSize, io.ErrUnexpectedEOF), -1, 1 << 20, ErrShortBody},
		{"it is cut at a buffer's end", cut(bufferSize, io.ErrUnexpectedEOF), -1, 1 << 20, ErrShortBody},
		{"it declares too much", strings.NewReader("x"), 1001, 1000, ErrTooLarge},
		{"it sends too much", bytes.NewReader(content(1, 1001)), -1, 1000, ErrTooLarge},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, budget := range []int64{1 << 20, 0} {
				m := newMemory(t, budget)
				limits := limitsOn(500*gib, 1000*gib, Limits{})
				b, err := m.receive(tt.r, tt.size, tt.limit, roomFor(limits, tt.size))
				nothingPromised(t, limits)
				if b != nil || !errors.Is(err, tt.want) {
					t.Errorf("%v, %v; want %v", b, err, tt.want)
				}
				if m.free != budget {
					t.Errorf("%d bytes of the budget are lost", budget-m.free)
				}
				if s, ok := tt.r.(io.Seeker); ok {
					_, err := s.Seek(0, io.SeekStart)
					must(t, err)
				} else {
					break
				}
			}
		})
	}
}

// The door hands the request's body over as it is: net/http must tell a cut
// body from a complete one in both encodings.
func TestABodyOverHTTPThatIsCutIsNeverTakenForAWholeOne(t *testing.T) {
	for _, chunked := range []bool{false, true} {
		result := make(chan error, 1)
		server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, err := newMemory(t, 1<<20).receive(r.Body, r.ContentLength, 1<<20, roomFor(limitsOn(500*gib, 1000*gib, Limits{}), r.ContentLength))
			result <- err
		}))
		in, out := io.Pipe()
		request, err := http.NewRequest(http.MethodPost, server.URL, in)
		must(t, err)
		if !chunked {
			request.ContentLength = 10_000
		}
		go func() {
			out.Write(content(1, 5000))
			out.CloseWithError(errors.New("the client dies"))
		}()
		if response, err := http.DefaultTransport.RoundTrip(request); err == nil {
			response.Body.Close()
		}
		if err := <-result; !errors.Is(err, ErrShortBody) {
			t.Errorf("chunked %v: receive gives %v, want ErrShortBody", chunked, err)
		}
		server.Close()
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

func TestManyBodiesAtOnceStayWithinTheBudgetAndAllArrive(t *testing.T) {
	const budget = 4 * bufferSize
	s := newState(t)
	l := s.open(func(o *Options) { o.Limits.BodyMemory = budget })
	random := rand.New(rand.NewPCG(1, 1))
	var contents [][]byte
	var pending []*Pending
	for i := range 40 {
		c := content(uint64(i), random.IntN(3*bufferSize))
		contents = append(contents, c)
		pending = append(pending, store(t, l, c))
	}
	ordered := make([][]byte, len(contents)) // small ones overtake large ones
	for i, p := range pending {
		ordered[committed(t, p).Counter()-1] = contents[i]
	}
	if l.memory.free != budget {
		t.Errorf("%d of %d bytes came back at commit", l.memory.free, budget)
	}
	checkContents(t, l, ordered)
	must(t, l.Close(true))
}

func TestAnEventThatRecoveryCouldNotReadIsRefusedBeforeItIsWritten(t *testing.T) {
	l := newState(t).open(nil)
	receive := func(n int) *Body {
		b, err := l.Receive(context.Background(), bytes.NewReader(content(1, n)), int64(n), 1<<20)
		must(t, err)
		return b
	}
	wrongLength := storeEvent(content(1, 10))
	tests := []struct {
		name string
		ev   Event
		body *Body
	}{
		{"a name over the limit", Event{Type: AccountOpened, Name: strings.Repeat("x", MaxName+1)}, nil},
		{"an event over the limit", Event{Type: AccountOpened, Unknown: make([]byte, MaxEvent)}, nil},
		{"a body of another length", wrongLength, receive(11)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if seq, err := l.Append(tt.ev, tt.body).Wait(); err == nil || errors.Is(err, ErrPoisoned) {
				t.Errorf("%s, %v; want a refusal that poisons nothing", seq, err)
			}
		})
	}
	if seq := committed(t, l.Append(noteEvent(1), nil)); seq != FirstSeq {
		t.Errorf("the refused events used up numbers: the next is %s", seq)
	}
	if l.memory.free != l.limits.BodyMemory {
		t.Error("a refused body's memory did not come back")
	}
	must(t, l.Close(true))
}

// refuseAll is Rules that admit no event of one type.
type refuseAll struct {
	refused Type
	seen    []Seq
}

var errRule = errors.New("no such machine")

func (r *refuseAll) Admit(ev *Event) error {
	if ev.Type == r.refused {
		return errRule
	}
	r.seen = append(r.seen, ev.Seq)
	return nil
}

func TestTheRulesSeeEachEventInOrderAndWhatTheyRefuseLeavesNoTrace(t *testing.T) {
	rules := &refuseAll{refused: BlockStored}
	s := newState(t)
	l := s.open(func(o *Options) { o.Rules = rules })
	for i := range 10 {
		if _, err := store(t, l, content(uint64(i), 5000)).Wait(); !errors.Is(err, errRule) {
			t.Fatalf("a refused event gives %v", err)
		}
		ev := noteEvent(i)
		if i == 5 {
			ev.Type = MachineRegistered
		}
		seq := committed(t, l.Append(ev, nil))
		if want := MakeSeq(1, uint32(i+1)); seq != want || rules.seen[i] != want {
			t.Fatalf("event %d is %s, the rules saw %s, want %s", i, seq, rules.seen[i], want)
		}
	}
	entries := collect(t, l, FirstSeq)
	if e := entries[5].Event; e.Machine != e.Seq || entries[4].Event.Account != entries[4].Event.Seq {
		t.Errorf("a machine's and an account's id is the seq of its event: %+v", e)
	}
	must(t, l.Close(true))
	if size := s.read(Bounds{}).Generations()[0].Trailer.PayloadBytes; size != 0 {
		t.Errorf("%d payload bytes of refused events were written", size)
	}
}
