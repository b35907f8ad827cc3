// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

func TestASlowStoreCountsWhatItHandsOn(t *testing.T) {
	behind := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.Error(w, r.Method, http.StatusTeapot) }))
	defer behind.Close()
	const delay = 30 * time.Millisecond
	door, err := NewSlowStore(behind.URL, delay)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for n := range int64(3) {
		began := time.Now()
		answer, err := client.Get(door.Endpoint)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if took := time.Since(began); took < delay || answer.StatusCode != http.StatusTeapot || door.Requests() != n+1 {
			t.Errorf("%s in %s, %d requests", answer.Status, took, door.Requests())
		}
	}
	if err := door.Close(); err != nil {
		t.Error(err)
	}
}
