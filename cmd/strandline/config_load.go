// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// configLoader fills a Config for one command. bindConfig makes it when the
// command is built; load is called when it runs.
type configLoader struct {
	cfg   Config
	cmd   *cobra.Command
	all   []setting // of Config, whether or not the command has a flag for it
	file  string    // --config
	names []string  // the settings that the command has flags for
}

// setting is one field of a Config with its name, help and parser. Flags,
// environment and file all go through the same parser.
type setting struct {
	name, usage string
	value       pflag.Value
}

// envName is the environment variable of a setting.
func (s setting) envName() string {
	return "STRANDLINE_" + strings.ToUpper(strings.ReplaceAll(s.name, "-", "_"))
}

// bindConfig gives cmd a flag for each of the named settings (all of them if
// none is named) and --config. Naming one that Config lacks panics: it is a
// mistake of the program.
func bindConfig(cmd *cobra.Command, names ...string) *configLoader {
	l := &configLoader{cfg: defaultConfig(), cmd: cmd, names: names}
	l.all = settingsOf(&l.cfg)
	if len(names) == 0 {
		for _, s := range l.all {
			l.names = append(l.names, s.name)
		}
	}
	flags := cmd.Flags()
	for _, name := range l.names {
		i := slices.IndexFunc(l.all, func(s setting) bool { return s.name == name })
		if i < 0 {
			panic("no setting " + name)
		}
		f := flags.VarPF(l.all[i].value, name, "", l.all[i].usage)
		if f.Value.Type() == "bool" {
			f.NoOptDefVal = "true"
		}
	}
	flags.StringVar(&l.file, "config", "", "YAML file with settings")
	return l
}

// settingsOf reads the tags of Config.
func settingsOf(cfg *Config) []setting {
	var all []setting
	v := reflect.ValueOf(cfg).Elem()
	for i := range v.NumField() {
		tag := v.Type().Field(i).Tag
		all = append(all, setting{tag.Get("name"), tag.Get("usage"), valueOf(v.Field(i).Addr().Interface())})
	}
	return all
}

func valueOf(field any) pflag.Value {
	switch f := field.(type) {
	case pflag.Value:
		return f
	case *string:
		return textValue{f}
	case *bool:
		return boolValue{f}
	case *uint64:
		return countValue{f}
	case *time.Duration:
		return durationValue{f}
	case *slog.Level:
		return &levelValue{f}
	}
	panic(fmt.Sprintf("Config has a field of type %T, which no flag can be", field))
}

// load returns the settings with everything applied that was said: flag, else
// environment, else file, else default. Its errors say where the value came
// from and what to write there.
func (l *configLoader) load() (Config, error) {
	file, err := l.readFile()
	if err != nil {
		return Config{}, withCode(exitUsage, err)
	}
	if err := l.checkEnvironment(); err != nil {
		return Config{}, withCode(exitUsage, err)
	}
	for _, s := range l.all {
		if f := l.cmd.Flags().Lookup(s.name); f != nil && f.Changed && f.Value == s.value {
			continue
		}
		if text, ok := os.LookupEnv(s.envName()); ok {
			err = explainSet(s, s.envName()+"=", text)
		} else if line, ok := file[s.name]; ok {
			err = explainSet(s, fmt.Sprintf("%s:%d: %s: ", l.file, line.Line, s.name), line.Value)
		}
		if err != nil {
			return Config{}, withCode(exitUsage, err)
		}
	}
	return l.cfg, nil
}

func explainSet(s setting, prefix, text string) error {
	if err := s.value.Set(text); err != nil {
		return explainValue(prefix, text, err)
	}
	return nil
}

// notSettings are variables of our prefix that are read elsewhere.
var notSettings = []string{"STRANDLINE_CONFIG", "STRANDLINE_TESTS"}

// checkEnvironment refuses misspelt variables: a limit that silently does not
// hold is worse than a server that does not start.
func (l *configLoader) checkEnvironment() error {
	known := slices.Clone(notSettings)
	for _, s := range l.all {
		known = append(known, s.envName())
	}
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if !strings.HasPrefix(name, "STRANDLINE_") || slices.Contains(known, name) {
			continue
		}
		if near := nearest(name, known); near != "" {
			return fmt.Errorf("%s: no such variable; write %s", name, near)
		}
		return fmt.Errorf("%s: no such variable; `strandline serve --help` lists the settings", name)
	}
	return nil
}

// readFile returns the file's values by name. Unknown and repeated names are
// refused, and anything but a flat list of settings.
func (l *configLoader) readFile() (map[string]*yaml.Node, error) {
	if l.file == "" {
		l.file = os.Getenv("STRANDLINE_CONFIG")
	}
	if l.file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(l.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("--config %s: there is no such file", l.file)
	}
	if err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("read the settings in %s: %w", l.file, err)
	}
	if len(doc.Content) == 0 {
		return nil, nil // an empty file
	}
	return l.fileSettings(doc.Content[0])
}

func (l *configLoader) fileSettings(top *yaml.Node) (map[string]*yaml.Node, error) {
	if top.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%s:%d: not a list of settings: write lines like `listen: 127.0.0.1:8000`", l.file, top.Line)
	}
	values := map[string]*yaml.Node{}
	for i := 0; i+1 < len(top.Content); i += 2 {
		key, value := top.Content[i], top.Content[i+1]
		if err := l.checkKey(key.Value); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", l.file, key.Line, err)
		}
		if values[key.Value] != nil {
			return nil, fmt.Errorf("%s:%d: %s stands there twice: leave one of them out", l.file, key.Line, key.Value)
		}
		if value.Kind != yaml.ScalarNode || value.Tag == "!!null" {
			return nil, fmt.Errorf("%s:%d: %s wants one value: write %s: VALUE", l.file, key.Line, key.Value, key.Value)
		}
		values[key.Value] = value
	}
	return values, nil
}

func (l *configLoader) checkKey(name string) error {
	var names []string
	for _, s := range l.all {
		if s.name == name {
			return nil
		}
		names = append(names, s.name)
	}
	if near := nearest(name, names); near != "" {
		return fmt.Errorf("%s: no such setting; write %s", name, near)
	}
	return fmt.Errorf("%s: no such setting; `strandline serve --help` lists them", name)
}
