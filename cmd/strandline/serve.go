// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/internal/memory"
)

// roomyHeap is the size up to which a server's heap may grow before it is
// collected. Go's own measure, twice what is alive, costs a tenth of the CPU with
// small blocks, which leave much garbage.
const roomyHeap = 256 << 20

func newServe(*globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve backups",
		Long: `Serves the log of the state directory --data to restic and rustic, and ships it
to its archive. Every start claims a new epoch in the archive, so that no other
server can go on writing this log; a server that finds itself overtaken stops
acknowledging, and ends with exit code 3 when it is stopped.

SIGTERM ends it cleanly: what is acknowledged is shipped, at most 20 seconds long,
and the end is marked clean. A stop that hangs, on a disk for example, is cut short
after 45 seconds with exit code 10. SIGHUP reads the htpasswd file again.`,
		Example: "  strandline serve --data /var/lib/strandline --no-auth\n" +
			"  strandline serve --data /var/lib/strandline --listen 0.0.0.0:8000 --htpasswd-file users --tls --tls-cert cert.pem --tls-key key.pem\n" +
			"  restic -r rest:http://127.0.0.1:8000/alice/laptop/ init",
	}
	load := bindConfig(cmd)
	var waive []string
	cmd.Flags().StringArrayVar(&waive, "waive", nil, "ship a generation although payloads in it have rotted, and lose those: "+
		archiver.RottenPayload+"@SEQ or @FIRST-LAST, as the refused start says; may be repeated")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := load.load()
		if err != nil {
			return err
		}
		if err := cfg.checkServe(); err != nil {
			return err
		}
		waivers, err := parseWaivers(waive, []string{archiver.RottenPayload})
		if err != nil {
			return withCode(exitUsage, err)
		}
		memory.CollectFrom(roomyHeap)
		a := newApp(&cfg, slog.Default())
		a.waivers = waivers
		return a.run(cmd.Context())
	}
	return cmd
}
