// Command clock prints its wall clock: see cluster.Shifted.
package main

import (
	"fmt"
	"time"
)

func main() { fmt.Println(time.Now().Format(time.RFC3339Nano)) }
