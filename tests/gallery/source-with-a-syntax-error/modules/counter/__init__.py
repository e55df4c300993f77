def tick(self:
