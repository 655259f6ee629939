package kafka

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/errandhq/errand/internal/testenv"
	"github.com/errandhq/errand/job"
)

const secret = "hunter22-hunter22"

// TestSecurity goes through each way to prove who one is, over TLS, at a real broker.
func TestSecurity(t *testing.T) {
	t.Parallel()
	certs := testenv.NewCertificates(t)
	k := testenv.StartKafka(t, testenv.KafkaOptions{Password: secret, TLS: &certs, Settings: map[string]string{
		"authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
		"super.users":           "User:ANONYMOUS", // brokers and controllers, on their own listeners
	}})
	address := func(user, password, query string) string {
		return fmt.Sprintf("kafka://%s:%s@%s?tls=true&ca=%s&%s", user, password, k.Address(), certs.CA, query)
	}
	t.Run("NotAllowed", func(t *testing.T) { notAllowed(t, address("errand", secret, "")) })
	allow(t, k.PeerAddress())
	for _, sasl := range []string{"plain", "scram-sha-256", "scram-sha-512"} {
		for _, groups := range []Groups{Share, Classic} {
			t.Run(sasl+"/"+string(groups), func(t *testing.T) {
				roundTrip(t, open(t, address("errand", secret, "sasl="+sasl+"&partitions=1&group="+string(groups)), time.Minute))
			})
		}
		t.Run(sasl+"/WrongPassword", func(t *testing.T) {
			refused(t, address("errand", "wrong-"+secret, "sasl="+sasl), job.PermissionDenied)
		})
	}
	t.Run("UnknownAuthority", func(t *testing.T) {
		refused(t, fmt.Sprintf("kafka://errand:%s@%s?tls=true", secret, k.Address()), job.FailedPrecondition)
	})
	t.Run("NoUser", func(t *testing.T) {
		refused(t, fmt.Sprintf("kafka://%s?tls=true&ca=%s", k.Address(), certs.CA), job.FailedPrecondition, job.Unavailable)
	})
}

// notAllowed makes each call as a user who may do nothing.
func notAllowed(t *testing.T, address string) {
	refused(t, address, job.PermissionDenied)
	b := open(t, address, time.Minute)
	found, err := b.Check(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	denied := map[string]bool{}
	for _, f := range found {
		denied[f.Name] = !f.OK
	}
	if !denied["may make topics"] || !denied["may consume by groups"] {
		t.Errorf("Check finds %v", found)
	}
}

// refused makes each call, which must fail with one of the codes, and show no password.
func refused(t *testing.T, address string, codes ...job.Code) {
	t.Helper()
	b := open(t, address, time.Minute)
	_, err1 := b.Subscribe(t.Context(), "errand.refused")
	err2 := b.Publish(t.Context(), "errand.refused", [][]byte{{1}})
	for _, err := range []error{err1, err2} {
		ok := false
		for _, c := range codes {
			ok = ok || job.CodeOf(err) == c
		}
		if !ok || strings.Contains(fmt.Sprintf("%v %+v %v", err, err, b), secret) {
			t.Errorf("the error is %v of code %d, want one of %d", err, job.CodeOf(err), codes)
		}
	}
}

// allow gives the user errand what docs/kafka.md lists, and nothing more.
func allow(t *testing.T, peer string) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(peer))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	for _, acl := range []*kadm.ACLBuilder{
		kadm.NewACLs().Topics(ourPrefix).Operations(kadm.OpCreate, kadm.OpDescribe, kadm.OpDescribeConfigs, kadm.OpRead, kadm.OpWrite),
		kadm.NewACLs().Groups(ourPrefix).Operations(kadm.OpRead, kadm.OpDescribe, kadm.OpAlterConfigs),
	} {
		made, err := adm.CreateACLs(t.Context(), acl.ResourcePatternType(kadm.ACLPatternPrefixed).Allow("User:errand"))
		for _, m := range made {
			err = errors.Join(err, m.Err)
		}
		if err != nil || len(made) == 0 {
			t.Fatalf("allow: %v", err)
		}
	}
}

// roundTrip sends a message and gets it back, and has Check find nothing wrong.
func roundTrip(t *testing.T, b *Broker) {
	t.Helper()
	topic := "errand.safe." + strings.ToLower(strings.NewReplacer("/", ".").Replace(t.Name()))
	s, err := b.Subscribe(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Publish(t.Context(), topic, [][]byte{[]byte("hello")}); err != nil {
		t.Fatal(err)
	}
	msgs, err := s.Receive(t.Context(), 5, time.Minute)
	if err != nil || len(msgs) != 1 || string(msgs[0].Body) != "hello" {
		t.Fatalf("received %v, %v", msgs, err)
	}
	if err := s.Ack(t.Context(), msgs); err != nil {
		t.Error(err)
	}
	if _, err := b.Depth(t.Context(), topic); err != nil {
		t.Error(err)
	}
	found, err := b.Check(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		if !f.OK {
			t.Errorf("%s: %s", f.Name, f.Detail)
		}
	}
}
