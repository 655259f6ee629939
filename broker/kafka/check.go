package kafka

import (
	"context"
	"fmt"

	"github.com/errandhq/errand/broker"
)

// Check implements broker.Broker.
func (b *Broker) Check(ctx context.Context) ([]broker.Finding, error) {
	groups, err := b.kind(ctx)
	if err != nil {
		return nil, err
	}
	meta, err := b.adm.BrokerMetadata(ctx)
	if err != nil {
		return nil, wrap(ctx, "look at the cluster", err)
	}
	return []broker.Finding{{Name: "cluster", OK: true, Detail: fmt.Sprintf("%d brokers, %s groups", len(meta.Brokers), groups)}}, nil
}
