// Command netpol enforces the NetworkPolicies of the throwaway cluster on its one node, with kube-router's controller:
// rules of iptables and sets of ipset for every pod of the node. It removes them when it is told to stop.
//
// kube-router itself also has a proxy for Services and a router (BGP), and takes minutes longer to build.
package main

import (
	"context"
	"flag"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/cloudnativelabs/kube-router/v2/pkg/controllers/netpol"
	"github.com/cloudnativelabs/kube-router/v2/pkg/healthcheck"
	"github.com/cloudnativelabs/kube-router/v2/pkg/options"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

func main() {
	settings := options.NewKubeRouterConfig()
	// Only kube-router's own flags set this one.
	settings.EnableIPv4 = true
	kubeconfig := flag.String("kubeconfig", "", "file with the address of the API server and a client certificate")
	flag.StringVar(&settings.HostnameOverride, "node", "", "name of this node")
	flag.StringVar(&settings.ClusterIPCIDRs[0], "services", "", "addresses of Services, as CIDR")
	klog.InitFlags(nil)
	flag.Parse()
	// Every change of a pod or policy triggers an update; this is only the repair of rules that others changed.
	settings.IPTablesSyncPeriod = time.Minute

	if err := run(*kubeconfig, settings); err != nil {
		klog.Exit(err)
	}
}

func run(kubeconfig string, settings *options.KubeRouterConfig) error {
	client, err := connect(kubeconfig)
	if err != nil {
		return err
	}
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()

	factory := informers.NewSharedInformerFactory(client, 0)
	pods := factory.Core().V1().Pods().Informer()
	namespaces := factory.Core().V1().Namespaces().Informer()
	policies := factory.Networking().V1().NetworkPolicies().Informer()
	tables, sets, err := netpol.NewIPTablesHandlers(settings)
	if err != nil {
		return err
	}
	controller, err := netpol.NewNetworkPolicyController(
		client, settings, pods, policies, namespaces, &sync.Mutex{}, tables, sets)
	if err != nil {
		return err
	}
	for informer, handler := range map[cache.SharedIndexInformer]cache.ResourceEventHandler{
		pods: controller.PodEventHandler, namespaces: controller.NamespaceEventHandler, policies: controller.NetworkPolicyEventHandler,
	} {
		if _, err := informer.AddEventHandler(handler); err != nil {
			return err
		}
	}
	factory.Start(stop.Done())
	// The first rules must not come from half a list.
	factory.WaitForCacheSync(stop.Done())

	// Nobody asks whether the controller is alive: its heartbeats are read and forgotten.
	heartbeats := make(chan *healthcheck.ControllerHeartbeat)
	go func() {
		for range heartbeats {
		}
	}()
	var running sync.WaitGroup
	running.Add(1)
	controller.Run(heartbeats, stop.Done(), &running)
	running.Wait()
	controller.Cleanup()
	return nil
}

func connect(kubeconfig string) (kubernetes.Interface, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(config)
}
