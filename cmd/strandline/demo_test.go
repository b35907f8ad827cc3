// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"net"
	"strconv"
	"testing"
)

func TestTheDemosPortIsNoneThatAnOutgoingConnectionMayTake(t *testing.T) {
	for range 50 {
		address, err := freeAddress()
		if err != nil {
			t.Fatal(err)
		}
		_, text, err := net.SplitHostPort(address)
		if err != nil {
			t.Fatal(err)
		}
		if port, err := strconv.Atoi(text); err != nil || port < 1024 || port >= 32768 {
			t.Fatalf("port %s, %v: from 32768 on the system gives them away", text, err)
		}
	}
}
