// SPDX-License-Identifier: Apache-2.0

package testkit

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
)

func TestARuleSpoilsTheRequestsThatItPicks(t *testing.T) {
	store := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(store.Close)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	paths := []string{"/b/archive/log/1", "/b/archive/log/2", "/b/archive/epoch/1", "/b/archive/log/3", "/b/archive/log/4"}
	for _, tc := range []struct {
		name string
		rule Rule
		want []int // of paths
	}{
		{"each one", Rule{}, []int{0, 1, 2, 3, 4}},
		{"of one kind", Rule{When: On(Get, "log/")}, []int{0, 1, 3, 4}},
		{"none of another", Rule{When: On(Put, "log/")}, nil},
		{"after the first two", Rule{Skip: 2}, []int{2, 3, 4}},
		{"so many", Rule{When: On(Get, "log/"), Skip: 1, Times: 2}, []int{1, 3}},
		{"every second of each kind", Rule{Every: 2}, []int{0, 2, 3}},
	} {
		tc.rule.Do = Absent
		p := NewProxy(t, store.URL)
		active := p.Add(tc.rule)
		var got []int
		for i, path := range paths {
			response, err := http.Get(p.Endpoint + path)
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			if response.StatusCode == http.StatusNotFound {
				got = append(got, i)
			}
		}
		if !slices.Equal(got, tc.want) || active.Count() != len(tc.want) {
			t.Errorf("%s: it spoiled %v, %d in all, want %v", tc.name, got, active.Count(), tc.want)
		}
	}
}

func TestAProxyKnowsWhatIsAsked(t *testing.T) {
	for _, tc := range []struct {
		method, target, ranged string
		want                   Request
	}{
		{"GET", "/b?list-type=2&prefix=archive%2Flog%2F", "", Request{List, "log/"}},
		{"GET", "/b/archive/log/1", "", Request{Get, "log/1"}},
		{"GET", "/b/archive/log/1", "bytes=0-0", Request{Head, "log/1"}},
		{"GET", "/b/archive/log/1", "bytes=-144", Request{Get, "log/1"}},
		{"PUT", "/b/archive/strandline.json", "", Request{Put, "strandline.json"}},
		{"DELETE", "/b/archive/probe/1/x", "", Request{Delete, "probe/1/x"}},
		{"GET", "/b/?lifecycle=", "", Request{Op: Other}},
	} {
		r := httptest.NewRequest(tc.method, tc.target, nil)
		r.Header.Set("Range", tc.ranged)
		if got := requestOf(r); got != tc.want {
			t.Errorf("%s %s: %+v, want %+v", tc.method, tc.target, got, tc.want)
		}
	}
}
