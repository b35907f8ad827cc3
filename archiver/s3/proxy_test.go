// SPDX-License-Identifier: Apache-2.0

package s3_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/s3"
	"github.com/strandline-project/strandline/internal/testkit"
)

// spoiled is a bucket of a real store with three objects, seen through a proxy
// and, beside it, without one.
type spoiled struct {
	*s3.Bucket
	t       *testing.T
	proxy   *testkit.Proxy
	without *s3.Bucket
}

func newSpoiled(t *testing.T, server *testkit.S3) *spoiled {
	t.Helper()
	proxy, spec := testkit.NewProxy(t, server.Endpoint), server.Spec()
	s := &spoiled{openSpec(t, proxy.Through(spec), nil), t, proxy, openSpec(t, spec, nil)}
	for i := range 3 {
		s.put(fmt.Sprintf("log/%d", i), "as it was put")
	}
	return s
}

func (s *spoiled) put(key, text string) {
	s.t.Helper()
	if err := s.without.PutIfAbsent(s.t.Context(), key, archiver.BytesBody([]byte(text))); err != nil {
		s.t.Fatal(err)
	}
}

// holds makes sure of what the store really has; "" is no object.
func (s *spoiled) holds(key, want string) {
	s.t.Helper()
	text, err := read(s.t.Context(), s.without, key)
	if errors.Is(err, archiver.ErrNotFound) {
		text, err = "", nil
	}
	if err != nil || text != want {
		s.t.Errorf("%s holds %q, want %q; %v", key, text, want, err)
	}
}

func read(ctx context.Context, b archiver.Bucket, key string) (string, error) {
	r, err := b.GetRange(ctx, key, 0, -1)
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(r)
	return string(text), errors.Join(err, r.Close())
}

func (s *spoiled) lists(want ...string) {
	s.t.Helper()
	var got []string
	for info, err := range s.List(s.t.Context(), "log/", "") {
		if err != nil {
			s.t.Fatal(err)
		}
		got = append(got, info.Key)
	}
	if !slices.Equal(got, want) {
		s.t.Errorf("the list is %q, want %q", got, want)
	}
}

func TestTheProxySpoilsListsAsItIsTold(t *testing.T) {
	both(t, func(t *testing.T, server *testkit.S3) {
		s := newSpoiled(t, server)
		s.lists("log/0", "log/1", "log/2")
		listed := time.Now()
		time.Sleep(time.Until(listed.Truncate(time.Second).Add(2 * time.Second))) // stores keep whole seconds
		s.put("log/3", "later")
		for _, tc := range []struct {
			fault testkit.Fault
			want  []string
		}{
			{testkit.ListEndsAt(1), []string{"log/0"}},
			{testkit.ListLacksLast(1), []string{"log/0", "log/1", "log/2"}},
			{testkit.ListWithout(func(key string) bool { return key == "log/1" }), []string{"log/0", "log/2", "log/3"}},
			{testkit.ListStale(listed.Add(time.Second)), []string{"log/0", "log/1", "log/2"}},
		} {
			s.proxy.Clear()
			s.proxy.Add(testkit.Rule{When: testkit.On(testkit.List, "log/"), Times: 1, Do: tc.fault})
			s.lists(tc.want...)
			s.lists("log/0", "log/1", "log/2", "log/3")
		}
	})
}

func TestTheProxySpoilsPutsAsItIsTold(t *testing.T) {
	both(t, func(t *testing.T, server *testkit.S3) {
		s := newSpoiled(t, server)
		late := new(testkit.Late)
		for _, tc := range []struct {
			key   string
			fault testkit.Fault
			ok    bool
			holds string
		}{
			{"log/not-done", testkit.NotDone, false, ""},
			{"log/done", testkit.DoneUnanswered, false, "new"},
			{"log/refused", testkit.Throttled, false, ""},
			{"log/unsupported", testkit.UnsupportedCondition, false, ""},
			{"log/late", late.Fault, false, ""},
			{"log/1", testkit.IgnoreCondition, true, "new"},
			{"log/2", testkit.Delay(0), false, "as it was put"},
		} {
			s.proxy.Clear()
			rule := s.proxy.Add(testkit.Rule{When: testkit.On(testkit.Put, tc.key), Do: tc.fault})
			err := s.PutIfAbsent(t.Context(), tc.key, archiver.BytesBody([]byte("new")))
			if (err == nil) != tc.ok || rule.Count() != 1 {
				t.Errorf("%s: %v, spoiled %d times", tc.key, err, rule.Count())
			}
			s.holds(tc.key, tc.holds)
		}
		if answers := late.Land(); !slices.Equal(answers, []int{200}) {
			t.Errorf("the late put was answered with %v", answers)
		}
		s.holds("log/late", "new")
	})
}

func TestALatePutWithoutItsConditionReplaces(t *testing.T) {
	both(t, func(t *testing.T, server *testkit.S3) {
		s := newSpoiled(t, server)
		late := new(testkit.Late)
		s.proxy.Add(testkit.Rule{When: testkit.On(testkit.Put, "log/5"), Do: late.Fault})
		if err := s.PutIfAbsent(t.Context(), "log/5", archiver.BytesBody([]byte("late"))); err == nil {
			t.Error("a put that has not arrived succeeds")
		}
		s.put("log/5", "first")
		late.Land()
		s.holds("log/5", "first")

		s.proxy.Add(testkit.Rule{Do: testkit.IgnoreCondition})
		if err := s.PutIfAbsent(t.Context(), "log/5", archiver.BytesBody([]byte("late"))); err == nil {
			t.Error("a put that has not arrived succeeds")
		}
		late.Land()
		s.holds("log/5", "late")
	})
}

func TestTheProxySpoilsReadsAsItIsTold(t *testing.T) {
	both(t, func(t *testing.T, server *testkit.S3) {
		s := newSpoiled(t, server)
		for _, tc := range []struct {
			name  string
			fault testkit.Fault
			ok    bool
			want  string
		}{
			{"absent", testkit.Absent, false, ""},
			{"wrong byte", testkit.WrongByte, true, "as it Was put"},
			{"wrong length", testkit.WrongLength, true, "as it "},
			{"reset", testkit.Reset, false, "as it "},
			{"ends early", testkit.EndEarly, false, ""},
		} {
			s.proxy.Clear()
			s.proxy.Add(testkit.Rule{When: testkit.On(testkit.Get, "log/1"), Times: 1, Do: tc.fault})
			text, err := read(t.Context(), s, "log/1")
			if (err == nil) != tc.ok || tc.ok && text != tc.want {
				t.Errorf("%s: %q, %v", tc.name, text, err)
			}
			if tc.name == "absent" && !errors.Is(err, archiver.ErrNotFound) {
				t.Errorf("a key that is called absent gives %v", err)
			}
			if text, err := read(t.Context(), s, "log/1"); err != nil || text != "as it was put" {
				t.Errorf("%s: after it %q, %v", tc.name, text, err)
			}
		}
	})
}
