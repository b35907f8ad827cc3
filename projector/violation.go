// SPDX-License-Identifier: Apache-2.0

package projector

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/strandline-project/strandline/eventlog"
)

// Rule is something that must hold whenever an event is applied, live and in
// recovery alike.
type Rule uint8

// The rules. Sorted runs hold their numbers: a new one stands before rulePanic.
const (
	RuleContiguous   Rule = iota + 1 // no event is missing that is not stated as cleaned
	RuleType                         // this build understands every type of event
	RuleForm                         // an event's fields make sense together
	RuleEpochOnce                    // an epoch starts once
	RuleAccount                      // an event's account was opened
	RuleAccountOnce                  // an account is opened once, under a name that is free
	RuleMachine                      // an event's machine was registered
	RuleMachineOnce                  // a machine is registered once, and never again
	RuleMachineName                  // an account has one machine of a name
	RuleOwner                        // a re-owning names the owner that is and the event that made it so
	RuleStoreLive                    // a block is not stored while it is live
	RuleDeleteStored                 // a delete names the store it undoes, with its length and checksum
	RuleReuseStored                  // a store that brings no payload names one that did, of the same block
	RuleTotals                       // a machine's totals are never below zero
	RuleBar                          // a released machine was barred
	RuleDigest                       // a view's digest is what the log says it was
	RuleTransaction                  // a machine has one open write transaction
	rulePanic                        // what a caught panic breaks
)

var ruleNames = [...]string{
	RuleContiguous:   "contiguous-seq",
	RuleType:         "known-type",
	RuleForm:         "well-formed",
	RuleEpochOnce:    "epoch-started-once",
	RuleAccount:      "known-account",
	RuleAccountOnce:  "account-opened-once",
	RuleMachine:      "known-machine",
	RuleMachineOnce:  "machine-registered-once",
	RuleMachineName:  "machine-name-free",
	RuleOwner:        "owner-succeeds-owner",
	RuleStoreLive:    "store-of-live-block",
	RuleDeleteStored: "delete-names-store",
	RuleReuseStored:  "reuse-names-store",
	RuleTotals:       "totals-never-negative",
	RuleBar:          "release-names-bar",
	RuleDigest:       "digest-as-recorded",
	RuleTransaction:  "one-write-transaction",
	rulePanic:        "projector-does-not-panic",
}

// String returns the rule's name.
func (r Rule) String() string {
	if r == 0 || int(r) >= len(ruleNames) {
		return fmt.Sprintf("rule %d", uint8(r))
	}
	return ruleNames[r]
}

// ParseRule returns the rule of a name; false when there is none that
// somebody could waive.
func ParseRule(name string) (Rule, bool) {
	at := slices.Index(ruleNames[:rulePanic], name)
	return Rule(max(at, 0)), at > 0
}

// RuleNames returns the names of all rules that ParseRule knows, sorted.
func RuleNames() []string { return slices.Sorted(slices.Values(ruleNames[1:rulePanic])) }

// ErrAhead says that a view has applied events that no longer count: the
// epoch that follows cut them off. Discard the view; it is projected again
// from the first event.
var ErrAhead = errors.New("the view has applied events that do not count any more: discard it")

// A Violation is a broken rule. It stops the view that found it; the view
// keeps everything up to the event before.
type Violation struct {
	Rule    Rule
	View    string
	Seq     eventlog.Seq // of the event that breaks the rule
	Type    eventlog.Type
	Machine eventlog.Seq // 0: the event names none
	Block   []byte       // nil: the event names none
	Ordinal uint64       // object or generation and offset of the event's payload; 0: it has none
	Offset  uint64
	Detail  string
	Later   []string // what later events say of the same machine or block
	Err     error    // the cause, may be nil
}

func newViolation(rule Rule, view string, entry *eventlog.Entry, err error, format string, args ...any) *Violation {
	e := &entry.Event
	return &Violation{Rule: rule, View: view, Seq: e.Seq, Type: e.Type, Machine: e.Machine, Block: e.Block,
		Ordinal: entry.Placement.Ordinal, Offset: entry.Placement.Offset, Detail: fmt.Sprintf(format, args...), Err: err}
}

// Error tells all that is known in one line.
func (v *Violation) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s view stopped before event %s (%s): rule %s is broken: %s", v.View, v.Seq, v.Type, v.Rule, v.Detail)
	if v.Machine != 0 {
		fmt.Fprintf(&b, "; machine %s", v.Machine)
	}
	if len(v.Block) > 0 {
		fmt.Fprintf(&b, "; block %x", v.Block)
	}
	if v.Ordinal != 0 {
		fmt.Fprintf(&b, "; payload in object %d at byte %d", v.Ordinal, v.Offset)
	}
	if len(v.Later) > 0 {
		fmt.Fprintf(&b, "; later events: %s", strings.Join(v.Later, "; "))
	}
	return b.String()
}

// Unwrap returns the cause.
func (v *Violation) Unwrap() error { return v.Err }
