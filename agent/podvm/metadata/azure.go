// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"context"
	"encoding/xml"
	"fmt"
	"net/http"
	"slices"
	"time"
)

const (
	azureAgent   = "cocoon"
	azureVersion = "2015-04-05" // of the wire protocol
	maxXML       = 1 << 20
	readyPause   = 10 * time.Second
)

type azureVersions struct {
	Supported []string `xml:"Supported>Version"`
}

// goalState is what Azure knows of the machine.
type goalState struct {
	Incarnation string
	ContainerID string `xml:"Container>ContainerId"`
	InstanceID  string `xml:"Container>RoleInstanceList>RoleInstance>InstanceId"`
}

type health struct {
	XMLName     xml.Name `xml:"Health"`
	Incarnation string   `xml:"GoalStateIncarnation"`
	ContainerID string   `xml:"Container>ContainerId"`
	InstanceID  string   `xml:"Container>RoleInstanceList>Role>InstanceId"`
	State       string   `xml:"Container>RoleInstanceList>Role>Health>State"`
}

// ReportReady tells Azure that the machine is up; without it the creation of
// the machine times out. It tries every ten seconds until it succeeds or ctx
// ends, whose error it returns then with that of the last try.
func (c *Client) ReportReady(ctx context.Context) error {
	for {
		err := c.reportReady(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-time.After(readyPause):
		case <-ctx.Done():
			return fmt.Errorf("report readiness: %w: %w", context.Cause(ctx), err)
		}
	}
}

func (c *Client) reportReady(ctx context.Context) error {
	var versions azureVersions
	if err := c.azureGet(ctx, "/?comp=versions", "", &versions); err != nil {
		return err
	}
	if len(versions.Supported) == 0 {
		return fmt.Errorf("%w: no version of the protocol is named", ErrService)
	}
	version := azureVersion
	if !slices.Contains(versions.Supported, version) {
		version = versions.Supported[0]
	}
	var goal goalState
	if err := c.azureGet(ctx, "/machine/?comp=goalstate", version, &goal); err != nil {
		return err
	}
	if goal.Incarnation == "" || goal.ContainerID == "" || goal.InstanceID == "" {
		return fmt.Errorf("%w: the goal state lacks an id", ErrService)
	}
	body, err := xml.Marshal(health{Incarnation: goal.Incarnation, ContainerID: goal.ContainerID, InstanceID: goal.InstanceID, State: "Ready"})
	if err != nil {
		return fmt.Errorf("write health: %w", err)
	}
	_, err = c.do(ctx, request{
		method: http.MethodPost, url: "http://" + wireServer + "/machine?comp=health", body: xml.Header + string(body), limit: maxXML, anyOK: true,
		header: map[string]string{"x-ms-agent-name": azureAgent, "x-ms-version": version, "Content-Type": "text/xml; charset=utf-8"},
	})
	return err
}

func (c *Client) azureGet(ctx context.Context, path, version string, into any) error {
	header := map[string]string{"x-ms-agent-name": azureAgent}
	if version != "" {
		header["x-ms-version"] = version
	}
	body, err := c.do(ctx, request{url: "http://" + wireServer + path, header: header, limit: maxXML, anyOK: true})
	if err != nil {
		return err
	}
	if err := xml.Unmarshal(body, into); err != nil {
		return fmt.Errorf("%w: parse the answer to %s: %w", ErrService, path, err)
	}
	return nil
}
