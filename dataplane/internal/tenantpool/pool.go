package tenantpool

type pool struct{}
