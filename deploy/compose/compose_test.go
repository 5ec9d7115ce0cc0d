package compose

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"

	"github.com/ouvira/ouvira/shared/config"
)

const root = "../.."

// load reads the file as `docker compose` would, with an empty environment: a
// default that only works on somebody's machine shows here.
func load(t *testing.T, profiles ...string) *types.Project {
	t.Helper()
	options, err := cli.NewProjectOptions(
		[]string{filepath.Join(root, "docker-compose.yml")},
		cli.WithWorkingDirectory(root),
		cli.WithEnv(nil),
		cli.WithProfiles(profiles),
		cli.WithResolvedPaths(true),
	)
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(t.Context())
	if err != nil {
		t.Fatalf("docker-compose.yml does not load: %v", err)
	}
	return project
}

// longRunning are the parts of the topology.
var longRunning = []string{"pg-control", "pg-a", "pg-b", "control", "worker", "data-0", "data-1", "mail"}

func TestTopologyIsComplete(t *testing.T) {
	t.Parallel()
	project := load(t)
	for _, name := range longRunning {
		service, ok := project.Services[name]
		if !ok {
			t.Errorf("service %s is missing", name)
			continue
		}
		if service.HealthCheck == nil || service.HealthCheck.Disable || len(service.HealthCheck.Test) < 2 {
			t.Errorf("%s has no health check", name)
		}
		if service.Restart != types.RestartPolicyUnlessStopped {
			t.Errorf("%s is not started again after a crash (restart: %q)", name, service.Restart)
		}
	}
}

// TestDependenciesWait: each wait names a condition that can come true.
func TestDependenciesWait(t *testing.T) {
	t.Parallel()
	project := load(t)
	for name, service := range project.Services {
		for other, dependency := range service.DependsOn {
			long := slices.Contains(longRunning, other)
			if long && dependency.Condition != types.ServiceConditionHealthy {
				t.Errorf("%s waits for %s to be %s: started is not ready", name, other, dependency.Condition)
			}
			if !long && dependency.Condition != types.ServiceConditionCompletedSuccessfully {
				t.Errorf("%s waits for %s to be %s: it is done once", name, other, dependency.Condition)
			}
		}
	}
	for _, plane := range []string{"control", "worker", "data-0", "data-1"} {
		if !reaches(project, plane, "pg-control") {
			t.Errorf("%s does not wait for the control database", plane)
		}
	}
}

func reaches(project *types.Project, from, to string) bool {
	for other := range project.Services[from].DependsOn {
		if other == to || reaches(project, other, to) {
			return true
		}
	}
	return false
}

// TestSec60ContainersAreConfined covers every service, of all profiles.
func TestSec60ContainersAreConfined(t *testing.T) {
	t.Parallel()
	for name, service := range load(t, "*").Services {
		if err := nonRoot(service.User); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !service.ReadOnly {
			t.Errorf("%s can write to its image", name)
		}
		if !slices.Equal(service.CapDrop, []string{"ALL"}) || len(service.CapAdd) > 0 {
			t.Errorf("%s keeps capabilities", name)
		}
		if !slices.Contains(service.SecurityOpt, "no-new-privileges:true") {
			t.Errorf("%s may gain privileges", name)
		}
		if service.Privileged || service.NetworkMode == "host" || service.Pid == "host" || service.Ipc == "host" {
			t.Errorf("%s shares the host's namespaces", name)
		}
		for _, volume := range service.Volumes {
			if volume.Type == types.VolumeTypeBind {
				t.Errorf("%s mounts %s of the host", name, volume.Source)
			}
		}
	}
}

// nonRoot accepts a numeric user and group other than 0: a name would be looked
// up in the image.
func nonRoot(user string) error {
	uid, gid, ok := strings.Cut(user, ":")
	for _, id := range []string{uid, gid} {
		if n, err := strconv.Atoi(id); !ok || err != nil || n == 0 {
			return fmt.Errorf("user %q is not a numeric uid:gid other than root", user)
		}
	}
	return nil
}

func TestPortsStayOnTheLoopback(t *testing.T) {
	t.Parallel()
	for name, service := range load(t, "*").Services {
		for _, port := range service.Ports {
			address, err := netip.ParseAddr(port.HostIP)
			if err != nil || !address.IsLoopback() {
				t.Errorf("%s publishes port %s on %q", name, port.Published, port.HostIP)
			}
		}
		if strings.HasPrefix(name, "pg-") {
			if len(service.Ports) > 0 {
				t.Errorf("%s is published to the host", name)
			}
			for network := range service.Networks {
				if !load(t).Networks[network].Internal {
					t.Errorf("%s is on the network %s, which reaches the outside", name, network)
				}
			}
		}
	}
}

// TestSec57NoDefaultCredentials: passwords come from files outside git, and no
// value in the file looks like one.
func TestSec57NoDefaultCredentials(t *testing.T) {
	t.Parallel()
	project := load(t, "*")
	for name, secret := range project.Secrets {
		at, err := filepath.Rel(project.WorkingDir, secret.File)
		if err != nil || !strings.HasPrefix(at, filepath.Join(".ouvira", "compose")+string(filepath.Separator)) {
			t.Errorf("secret %s is read from %q, not from .ouvira/compose", name, secret.File)
		}
	}
	withPassword := regexp.MustCompile(`://[^/@:]*:[^/@]+@`)
	for name, service := range project.Services {
		for key, value := range service.Environment {
			if value == nil {
				continue
			}
			if withPassword.MatchString(*value) {
				t.Errorf("%s: %s carries a password", name, key)
			}
			if strings.Contains(key, "PASSWORD") && !strings.HasSuffix(key, "_FILE") {
				t.Errorf("%s: %s is a password in the environment", name, key)
			}
			if key == "POSTGRES_HOST_AUTH_METHOD" {
				t.Errorf("%s: %s weakens the image's scram-sha-256", name, key)
			}
		}
	}
}

// TestSec37KeysAreApart: no container of the control plane holds the data
// plane's private key, and the reverse.
func TestSec37KeysAreApart(t *testing.T) {
	t.Parallel()
	keyring := map[string]string{"control-keys": "controlplane", "data-keys": "dataplane"}
	for name, service := range load(t, "*").Services {
		for _, volume := range service.Volumes {
			if owner, ok := keyring[volume.Source]; ok && !strings.Contains(service.Image, owner) {
				t.Errorf("%s (%s) mounts %s", name, service.Image, volume.Source)
			}
		}
	}
}

// TestSettingsExist: the programs refuse names they do not know.
func TestSettingsExist(t *testing.T) {
	t.Parallel()
	for name, service := range load(t, "*").Services {
		for key, value := range service.Environment {
			if strings.HasPrefix(key, "OUVIRA_") && !config.KnownName(key) {
				t.Errorf("%s: there is no setting %s", name, key)
			}
			if value == nil || *value == "" {
				t.Errorf("%s: %s has no value, so it depends on the shell", name, key)
			}
		}
	}
}

func TestImagesArePinned(t *testing.T) {
	t.Parallel()
	for name, service := range load(t, "*").Services {
		if service.Build == nil {
			checkPinned(t, name, service.Image)
		}
	}
}

// checkPinned wants name:version without a registry's host.
func checkPinned(t *testing.T, where, image string) {
	t.Helper()
	repository, tag, ok := strings.Cut(image, ":")
	if !ok || tag == "latest" || !strings.ContainsAny(tag, "0123456789") {
		t.Errorf("%s: image %q is not pinned to a version", where, image)
	}
	if first, _, slash := strings.Cut(repository, "/"); slash && strings.ContainsAny(first, ".:") {
		t.Errorf("%s: image %q names a registry's host", where, image)
	}
}

// TestSec60Dockerfiles: the last stage starts from nothing, runs as a number
// that is not root, and has no shell to run anything with.
func TestSec60Dockerfiles(t *testing.T) {
	t.Parallel()
	built := map[string]bool{}
	for name, service := range load(t, "*").Services {
		if service.Build == nil {
			continue
		}
		built[filepath.Join(service.Build.Context, service.Build.Dockerfile)] = true
		if service.Build.Context != mustAbs(t, root) {
			t.Errorf("%s builds from %s, not from the repository's root", name, service.Build.Context)
		}
	}
	if len(built) != 2 {
		t.Errorf("built from %v, want one Dockerfile per plane", built)
	}
	for path := range built {
		stages := stagesOf(t, path)
		for _, s := range stages {
			if s.from != "scratch" {
				checkPinned(t, path, s.from)
			}
		}
		last := stages[len(stages)-1]
		if last.from != "scratch" {
			t.Errorf("%s: the image is made from %s; a static binary needs no system", path, last.from)
		}
		if err := nonRoot(last.user); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		if !strings.HasPrefix(last.entrypoint, "[") || !strings.HasPrefix(last.healthcheck, "CMD [") {
			t.Errorf("%s: ENTRYPOINT %s and HEALTHCHECK %s must be lists, there is no shell", path, last.entrypoint, last.healthcheck)
		}
		if last.runs {
			t.Errorf("%s: the last stage runs commands", path)
		}
	}
}

// stage is what the test wants to know of a stage of a Dockerfile.
type stage struct {
	from, user, entrypoint, healthcheck string
	runs                                bool
}

func stagesOf(t *testing.T, path string) []stage {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var stages []stage
	for lines := bufio.NewScanner(file); lines.Scan(); {
		instruction, rest, _ := strings.Cut(strings.TrimSpace(lines.Text()), " ")
		if instruction == "FROM" {
			stages = append(stages, stage{from: strings.Fields(rest)[0]})
			continue
		}
		if len(stages) == 0 {
			continue
		}
		last := &stages[len(stages)-1]
		switch instruction {
		case "USER":
			last.user = rest
		case "ENTRYPOINT":
			last.entrypoint = rest
		case "HEALTHCHECK":
			_, command, _ := strings.Cut(rest, "CMD ")
			last.healthcheck = "CMD " + command
		case "RUN":
			last.runs = true
		}
	}
	if len(stages) == 0 {
		t.Fatalf("%s has no stage", path)
	}
	return stages
}

func mustAbs(t *testing.T, path string) string {
	t.Helper()
	absolute, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return absolute
}
