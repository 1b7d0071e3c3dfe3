"""How good an alignment is: the truth recovered, residuals, DCA to the vertex; numbers, tables, figures."""
