// SPDX-License-Identifier: Apache-2.0

package projector

// LoadAllSorted makes a Load sort every view, those of counters as well, in
// runs of so many bytes.
func LoadAllSorted(l *Load, runBytes int) {
	l.sortAll, l.Memory = true, 3*int64(runBytes)
}
