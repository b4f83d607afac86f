// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/pflag"

	"cocoon/trustee/verify/se"
)

func seFlags(f *pflag.FlagSet, c *se.Config) {
	f.StringVar(&c.HostKeys, "se-host-keys", "", "folder of the host key documents of machines with IBM Secure Execution; none are trusted without")
	f.StringVar(&c.Certs, "se-certs", "", "folder with the certificate of IBM's host key signing service and those between it and --se-root-ca")
	f.StringVar(&c.RootCA, "se-root-ca", "", "PEM root of these certificates")
	f.StringVar(&c.CRLs, "se-crls", "", "folder of the revocation lists of all authorities of the chain and of the signing service, read again after a minute")
	f.StringVar(&c.Headers, "se-headers", "", "folder of the headers (*.bin) of the images that may run")
}
