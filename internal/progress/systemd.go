// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"fmt"
	"net"
	"os"
	"time"
)

// tellWithin is how long a service manager that does not read is waited for.
const tellWithin = time.Second

// Notify tells the service manager something of this process, as sd_notify(3)
// defines it: lines of KEY=VALUE. Without NOTIFY_SOCKET nobody is told.
func Notify(state string) error {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("tell the service manager: %w", err)
	}
	if err = conn.SetWriteDeadline(time.Now().Add(tellWithin)); err == nil {
		_, err = conn.Write([]byte(state))
	}
	if closed := conn.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return fmt.Errorf("tell the service manager: %w", err)
	}
	return nil
}

// Extension is how much longer the service manager shall wait from each time
// that it is told of progress.
const Extension = "EXTEND_TIMEOUT_USEC=60000000"
