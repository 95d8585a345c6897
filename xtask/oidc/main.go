// A mock of an OpenID Connect provider, for the test of a log-in through oauth2-proxy: it has no form, and its n-th sign-in is that of
// a user of the n-th group.
package main

import (
	"log"
	"net"
	"os"

	"github.com/oauth2-proxy/mockoidc"
)

func main() {
	if len(os.Args) < 4 {
		log.Fatal("arguments: ADDRESS:PORT CLIENT SECRET [GROUP...]")
	}
	provider, err := mockoidc.NewServer(nil)
	if err != nil {
		log.Fatal(err)
	}
	provider.ClientID, provider.ClientSecret = os.Args[2], os.Args[3]
	for _, group := range os.Args[4:] {
		provider.QueueUser(&mockoidc.MockUser{
			Subject:       "user-of-" + group,
			Email:         group + "@example.com",
			EmailVerified: true,
			Groups:        []string{group},
		})
	}
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	if err := provider.Start(listener, nil); err != nil {
		log.Fatal(err)
	}
	select {}
}
