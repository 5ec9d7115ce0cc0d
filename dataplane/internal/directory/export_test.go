package directory

// WriteSnapshot writes it now, for the benchmark that says how long that takes.
func (d *Directory) WriteSnapshot() error {
	return writeSnapshot(d.options.Snapshot, d.options.Sealer, d.snapshot())
}
