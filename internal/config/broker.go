package config

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/errandhq/errand/internal/engine"
)

// The carriers that a broker address may name; they are the names of routes too.
const (
	RabbitMQ = "rabbitmq"
	Kafka    = "kafka"
)

// Broker is a carrier's address.
type Broker struct {
	Carrier string // RabbitMQ or Kafka
	URL     string // the whole address, with its password
}

// ParseBroker reads "amqp://…", "amqps://…" or "kafka://HOST,HOST…"; what comes behind
// the scheme is the driver's to check. Its errors never show what may be a password.
func ParseBroker(s string) (Broker, error) {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok || rest == "" {
		return Broker{}, fmt.Errorf("broker %s: is not one of amqp://…, amqps://…, kafka://…", redact(s))
	}
	switch scheme {
	case "amqp", "amqps":
		if _, err := url.Parse(s); err != nil {
			return Broker{}, fmt.Errorf("broker %s: is not a valid URL", redact(s))
		}
		return Broker{Carrier: RabbitMQ, URL: s}, nil
	case "kafka":
		return Broker{Carrier: Kafka, URL: s}, nil
	}
	return Broker{}, fmt.Errorf("broker %s: is not one of amqp://…, amqps://…, kafka://…", redact(s))
}

// String shows where the broker is, and no password.
func (b Broker) String() string { return redact(b.URL) }

// GoString implements fmt.GoStringer.
func (b Broker) GoString() string { return b.String() }

// Addresses are broker addresses, with white space between them.
type Addresses []string

// UnmarshalText implements encoding.TextUnmarshaler.
func (a *Addresses) UnmarshalText(b []byte) error {
	*a = strings.Fields(string(b))
	return nil
}

// UnmarshalTOML implements toml.Unmarshaler: one address, or an array of them.
func (a *Addresses) UnmarshalTOML(v any) error {
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	out := Addresses{}
	for _, one := range list {
		s, ok := one.(string)
		if !ok {
			return fmt.Errorf("a broker address is not a string")
		}
		out = append(out, strings.Fields(s)...)
	}
	*a = out
	return nil
}

// String implements fmt.Stringer. It shows passwords: see redact.
func (a *Addresses) String() string { return strings.Join(*a, " ") }

// Set implements pflag.Value; a repeated flag adds.
func (a *Addresses) Set(v string) error {
	*a = append(*a, strings.Fields(v)...)
	return nil
}

// Type implements pflag.Value.
func (a *Addresses) Type() string { return "address" }

// BrokerAddresses returns the carriers to connect to, at most one of each kind.
func (c Server) BrokerAddresses() ([]Broker, error) {
	var out []Broker
	for _, s := range c.Broker {
		b, err := ParseBroker(s)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(out, func(o Broker) bool { return o.Carrier == b.Carrier }) {
			return nil, fmt.Errorf("broker: %s is named twice: one address may list several hosts of one cluster", b.Carrier)
		}
		out = append(out, b)
	}
	return out, nil
}

// defaultRoute returns the route of queues that have none of their own: the one
// that is set, else the broker, if there is exactly one.
func (c Server) defaultRoute() string {
	if brokers, err := c.BrokerAddresses(); c.DefaultRoute == "" && err == nil && len(brokers) == 1 {
		return brokers[0].Carrier
	}
	return c.DefaultRoute
}

func (c Server) checkRoutes() error {
	brokers, err := c.BrokerAddresses()
	if err != nil {
		return err
	}
	switch c.DefaultRoute {
	case "", engine.DirectRoute:
		return nil
	case RabbitMQ, Kafka:
		if !slices.ContainsFunc(brokers, func(b Broker) bool { return b.Carrier == c.DefaultRoute }) {
			return fmt.Errorf("default-route: is %s, and no broker of that kind is named", c.DefaultRoute)
		}
		return nil
	}
	return oneOf("default-route", c.DefaultRoute, engine.DirectRoute, RabbitMQ, Kafka)
}

// Roles are the parts of the work that a server does.
type Roles engine.Role

var roleNames = []struct {
	name string
	role engine.Role
}{{"api", engine.RoleAPI}, {"relay", engine.RoleRelay}, {"keeper", engine.RoleKeeper}}

// UnmarshalText implements encoding.TextUnmarshaler: "api,relay,keeper".
func (r *Roles) UnmarshalText(b []byte) error {
	var out engine.Role
	for part := range strings.SplitSeq(string(b), ",") {
		name := strings.TrimSpace(part)
		i := slices.IndexFunc(roleNames, func(n struct {
			name string
			role engine.Role
		}) bool {
			return n.name == name
		})
		if i < 0 {
			return fmt.Errorf("%q is not one of api, relay, keeper", name)
		}
		out |= roleNames[i].role
	}
	*r = Roles(out)
	return nil
}

// UnmarshalTOML implements toml.Unmarshaler: the text, or an array of names.
func (r *Roles) UnmarshalTOML(v any) error {
	if list, ok := v.([]any); ok {
		names := make([]string, len(list))
		for i, one := range list {
			names[i] = fmt.Sprint(one)
		}
		return r.UnmarshalText([]byte(strings.Join(names, ",")))
	}
	return r.UnmarshalText(fmt.Append(nil, v))
}

// String implements fmt.Stringer.
func (r *Roles) String() string {
	var names []string
	for _, n := range roleNames {
		if engine.Role(*r)&n.role != 0 {
			names = append(names, n.name)
		}
	}
	return strings.Join(names, ",")
}

// Set implements pflag.Value.
func (r *Roles) Set(v string) error { return r.UnmarshalText([]byte(v)) }

// Type implements pflag.Value.
func (r *Roles) Type() string { return "roles" }
