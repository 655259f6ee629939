package config

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/caarlos0/env/v11"
	"github.com/spf13/pflag"
)

// envPrefix begins the name of every environment variable.
const envPrefix = "ERRAND_"

// Source reads a Server from where it may be set.
type Source struct {
	flags *pflag.FlagSet
	file  string // --config
	given Server // what the flags say
}

// Bind declares a flag for every setting on f, and --config for the file.
// After f has been parsed, Load returns what was set.
func Bind(f *pflag.FlagSet) *Source {
	s := &Source{flags: f, given: Default()}
	for _, one := range s.given.settings() {
		g := f.VarPF(one.value, one.flag, "", one.usage)
		if g.Value.Type() == "bool" {
			g.NoOptDefVal = "true"
		}
	}
	f.StringVar(&s.file, "config", "", "file of settings, TOML (ERRAND_CONFIG)")
	return s
}

// Load puts the sources together and checks the outcome. environ is in the
// form of os.Environ. Errors name the setting, and where it was set.
func (s *Source) Load(environ []string) (Server, error) {
	c := Default()
	vars := env.ToMap(environ)
	file := s.file
	if !s.flags.Changed("config") {
		file = vars[envPrefix+"CONFIG"]
	}
	if file != "" {
		if err := readFile(file, &c); err != nil {
			return Server{}, err
		}
	}
	if err := readEnvironment(vars, &c); err != nil {
		return Server{}, err
	}
	if err := s.readFlags(&c); err != nil {
		return Server{}, err
	}
	return c, c.Check()
}

// readFile is strict: a setting that is misspelt is an error, not a surprise.
// A password may stand in the file, so errors show positions and keys, and
// values only where they are no address.
func readFile(path string, c *Server) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("config file: %w", err)
	}
	meta, err := toml.Decode(string(b), c)
	if err != nil {
		var pe toml.ParseError
		if errors.As(err, &pe) {
			return fmt.Errorf("config file %s: line %d, %s: %s", path, pe.Position.Line, quoteKey(pe.LastKey), pe.Message)
		}
		return fmt.Errorf("config file %s: %w", path, err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		names := make([]string, len(unknown))
		for i, k := range unknown {
			names[i] = k.String()
		}
		return fmt.Errorf("config file %s: unknown settings: %s", path, strings.Join(names, ", "))
	}
	return nil
}

func quoteKey(k string) string {
	if k == "" {
		return "at the top"
	}
	return "after " + k
}

func readEnvironment(vars map[string]string, c *Server) error {
	err := env.ParseWithOptions(c, env.Options{Environment: vars, Prefix: envPrefix})
	var all env.AggregateError
	if !errors.As(err, &all) {
		return err
	}
	var out []error
	for _, e := range all.Errors {
		var pe env.ParseError
		if errors.As(e, &pe) {
			name := envPrefix + fieldEnv[pe.Name]
			e = fmt.Errorf("%s: %q is not valid: %w", name, vars[name], pe.Err)
		}
		out = append(out, e)
	}
	return errors.Join(out...)
}

// readFlags sets what was given as flags, over everything else.
func (s *Source) readFlags(c *Server) error {
	given := map[string]string{}
	s.flags.Visit(func(f *pflag.Flag) { given[f.Name] = f.Value.String() })
	for _, one := range c.settings() {
		v, ok := given[one.flag]
		if !ok {
			continue
		}
		c.replaced(one.flag)
		if err := one.value.Set(v); err != nil {
			return fmt.Errorf("--%s: %w", one.flag, err)
		}
	}
	return nil
}

// replaced empties the lists that a flag is to replace: it does not add to the file's.
func (c *Server) replaced(flag string) {
	switch flag {
	case "max-depth":
		c.MaxDepth = nil
	case "broker":
		c.Broker = nil
	case "canary":
		c.Canary = nil
	}
}
