// SPDX-License-Identifier: Apache-2.0

package archiver

// This file tells a state directory from its copies. A copy has the same
// content, claims included; what it cannot have is the same files.

// Place is where a state directory lies. What is not known is zero, and never
// shows a difference.
//
// An inode and the birth time of its file stay the same for as long as the file
// lives: over a reboot, when devices are renumbered, when the directory is
// renamed, when a container is made anew on its volume. Every way to copy a
// directory makes new files. Numbers of devices and file systems are not looked
// at, because they change by themselves; nor are inodes alone, because they are
// used again.
type Place struct {
	Directory FileID `json:"directory,omitzero"`
	Lock      FileID `json:"lock,omitzero"`
	// Record is state.json, as it was when it was written. A copy that is put
	// back over its original keeps the directory and LOCK, and not this.
	Record FileID `json:"record,omitzero"`
	// Machine is a hash of the machine's id; it is not known in a container.
	Machine string `json:"machine,omitempty"`
}

// FileID tells a file from all others that there ever were on its disk.
type FileID struct {
	Inode uint64 `json:"inode"`
	Born  int64  `json:"born"` // nanoseconds since 1970
}

// known reports whether anything can be told from the place.
func (p *Place) known() bool { return p.Directory != FileID{} || p.Lock != FileID{} }

// differs says what shows that p is another place than q, "" when nothing does.
func (p *Place) differs(q *Place) string {
	switch {
	case !p.known() || !q.known():
		return ""
	case p.Directory.differs(q.Directory):
		return "the directory is not the one that it was"
	case p.Lock.differs(q.Lock):
		return lockName + " is not the file that it was"
	case p.Record.differs(q.Record):
		return stateName + " is not the file that the server wrote"
	case p.Machine != "" && q.Machine != "" && p.Machine != q.Machine:
		return "this is another machine"
	}
	return ""
}

func (f FileID) differs(g FileID) bool { return f != FileID{} && g != FileID{} && f != g }
