// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"strconv"
	"strings"
	"time"
)

// insteadError is a value that was refused, and one that would be taken.
type insteadError struct {
	instead string // what to write; "" when there is no telling
	err     error  // why
}

func (e *insteadError) Error() string { return e.err.Error() }

// Unwrap returns the reason.
func (e *insteadError) Unwrap() error { return e.err }

// explainValue turns the refusal of a value into one line. prefix stands
// before a value where it was written: "--listen ", "STRANDLINE_LISTEN=".
func explainValue(prefix, value string, err error) error {
	var instead *insteadError
	if errors.As(err, &instead) && instead.instead != "" {
		return fmt.Errorf("%s%s: %w: write %s%s", prefix, value, err, prefix, instead.instead)
	}
	return fmt.Errorf("%s%s: %w", prefix, value, err)
}

// Address is HOST:PORT to listen on; an empty host means every interface, port
// 0 any free one.
type Address string

// Set implements pflag.Value.
func (a *Address) Set(text string) error {
	if text == "" { // no listener, for who can do without
		*a = ""
		return nil
	}
	bare := text
	for _, scheme := range []string{"http://", "https://", "tcp://"} {
		bare = strings.TrimPrefix(bare, scheme)
	}
	bare = strings.TrimSuffix(bare, "/")
	if port, err := strconv.ParseUint(bare, 10, 16); err == nil {
		return &insteadError{fmt.Sprintf("127.0.0.1:%d", port), errors.New("a host is missing")}
	}
	host, port, err := net.SplitHostPort(bare)
	if err != nil {
		return &insteadError{net.JoinHostPort(strings.Trim(bare, "[]"), "8000"), errors.New("not HOST:PORT")}
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return &insteadError{net.JoinHostPort(host, "8000"), fmt.Errorf("%q is no port from 0 to 65535", port)}
	}
	if bare != text {
		return &insteadError{bare, errors.New("an address has no scheme and no path")}
	}
	*a = Address(text)
	return nil
}

// String implements pflag.Value.
func (a *Address) String() string { return string(*a) }

// Type implements pflag.Value.
func (a *Address) Type() string { return "host:port" }

// Size is a number of bytes.
type Size int64

var sizeUnits = []struct {
	suffix string
	factor int64
}{
	{"kib", 1 << 10}, {"mib", 1 << 20}, {"gib", 1 << 30}, {"tib", 1 << 40},
	{"kb", 1e3}, {"mb", 1e6}, {"gb", 1e9}, {"tb", 1e12},
	{"k", 1e3}, {"m", 1e6}, {"g", 1e9}, {"t", 1e12}, {"b", 1},
}

// Set implements pflag.Value: "4096", "10GiB", "1.5G".
func (s *Size) Set(text string) error {
	number, factor := strings.ToLower(strings.TrimSpace(text)), int64(1)
	for _, unit := range sizeUnits {
		if rest, ok := strings.CutSuffix(number, unit.suffix); ok {
			number, factor = strings.TrimSpace(rest), unit.factor
			break
		}
	}
	if n, err := strconv.ParseInt(number, 10, 64); err == nil && n >= 0 && n <= math.MaxInt64/factor {
		*s = Size(n * factor)
		return nil
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || !(f >= 0 && f*float64(factor) < math.MaxInt64) { // NaN fails both
		return &insteadError{"10GiB", errors.New("not a size in bytes")}
	}
	*s = Size(f * float64(factor))
	return nil
}

// String implements pflag.Value: the largest binary unit that divides it.
func (s *Size) String() string { return s.text() }

// Format implements fmt.Formatter for sizes in messages.
func (s Size) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.text())) }

func (s Size) text() string {
	for i := 3; i >= 0; i-- {
		unit := sizeUnits[i]
		if s != 0 && int64(s)%unit.factor == 0 {
			return strconv.FormatInt(int64(s)/unit.factor, 10) + strings.ToUpper(unit.suffix[:1]) + "iB"
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// Type implements pflag.Value.
func (s *Size) Type() string { return "size" }

// Set implements pflag.Value.
func (a *Ack) Set(text string) error {
	values := []string{string(AckCommitPoints), string(AckArchived), string(AckCommitted)}
	for _, v := range values {
		if text == v {
			*a = Ack(v)
			return nil
		}
	}
	instead := nearest(text, values)
	if instead == "" {
		instead = values[0]
	}
	return &insteadError{instead, errors.New("not one of " + strings.Join(values, ", "))}
}

// String implements pflag.Value.
func (a *Ack) String() string { return string(*a) }

// Type implements pflag.Value.
func (a *Ack) Type() string { return "what" }

// levelValue is a log level as a flag: of a Config field or of a LevelVar.
type levelValue struct {
	target interface {
		slog.Leveler
		UnmarshalText([]byte) error
	}
}

// Set implements pflag.Value.
func (v *levelValue) Set(text string) error {
	if err := v.target.UnmarshalText([]byte(text)); err != nil {
		return &insteadError{"info", errors.New("not one of debug, info, warn, error")}
	}
	return nil
}

// String implements pflag.Value.
func (v *levelValue) String() string {
	if v.target == nil {
		return ""
	}
	return strings.ToLower(v.target.Level().String())
}

// Type implements pflag.Value.
func (v *levelValue) Type() string { return "level" }

// boolValue, textValue, countValue and durationValue are the plain kinds.
type boolValue struct{ target *bool }

func (v boolValue) Set(text string) error {
	b, err := strconv.ParseBool(text)
	if err != nil {
		return &insteadError{"true", errors.New("neither true nor false")}
	}
	*v.target = b
	return nil
}
func (v boolValue) String() string   { return strconv.FormatBool(v.target != nil && *v.target) }
func (v boolValue) Type() string     { return "bool" }
func (v boolValue) IsBoolFlag() bool { return true }

type textValue struct{ target *string }

func (v textValue) Set(text string) error { *v.target = text; return nil }
func (v textValue) String() string {
	if v.target == nil {
		return ""
	}
	return *v.target
}
func (v textValue) Type() string { return "text" }

type countValue struct{ target *uint64 }

func (v countValue) Set(text string) error {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return &insteadError{"1000", errors.New("not a whole number")}
	}
	*v.target = n
	return nil
}
func (v countValue) String() string {
	if v.target == nil {
		return ""
	}
	return strconv.FormatUint(*v.target, 10)
}
func (v countValue) Type() string { return "count" }

type durationValue struct{ target *time.Duration }

func (v durationValue) Set(text string) error {
	d, err := time.ParseDuration(text)
	if err == nil {
		*v.target = d
		return nil
	}
	if _, nerr := strconv.ParseFloat(text, 64); nerr == nil {
		return &insteadError{text + "s", errors.New("a unit is missing")}
	}
	return &insteadError{"50s", errors.New("not a duration")}
}
func (v durationValue) String() string {
	if v.target == nil {
		return ""
	}
	return v.target.String()
}
func (v durationValue) Type() string { return "duration" }
