package testenv

import (
	"fmt"
	"testing"
)

// redisSlots is the number of hash slots of a Redis cluster.
const redisSlots = 16384

// StartRedisCluster starts so many nodes that are one cluster without replicas.
// It takes the nodes a few seconds to agree that they are: until then they refuse calls.
func StartRedisCluster(t testing.TB, size int) []*Redis {
	t.Helper()
	nodes, buses := make([]*Redis, size), make([]int, size)
	for i := range nodes {
		buses[i] = FreePort(t)
		nodes[i] = StartRedis(t, RedisOptions{Config: []string{"cluster-enabled yes", fmt.Sprintf("cluster-port %d", buses[i])}})
		first, behind := redisSlots*i/size, redisSlots*(i+1)/size
		nodes[i].Run("CLUSTER", "ADDSLOTSRANGE", fmt.Sprint(first), fmt.Sprint(behind-1))
		nodes[i].Run("CLUSTER", "SET-CONFIG-EPOCH", fmt.Sprint(i+1))
	}
	for i := range nodes[1:] {
		nodes[0].Run("CLUSTER", "MEET", "127.0.0.1", fmt.Sprint(nodes[i+1].port), fmt.Sprint(buses[i+1]))
	}
	return nodes
}
